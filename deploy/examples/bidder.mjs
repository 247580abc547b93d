// How a bidder on Node asks the sidecar; README.md says what matters and why.
//
//     node bidder.mjs ADDRESS [TIMEOUT_MS [IDLE_MS]]
//
// Needs Node 18, and no package.
import http from 'node:http';
import readline from 'node:readline';
import { json } from 'node:stream/consumers';

const MAX_CONNECTIONS = 64;
const NO_VERDICT = Object.freeze({ status: 'NO_VERDICT', uid: null });

/** One for the whole process: it holds the pool of connections. */
export class SidecarClient {
  #agent;
  #baseUrl;
  #socketPath;
  #timeoutMs;

  /** Takes http://HOST:PORT or unix:/PATH. */
  constructor(address, timeoutMs = 5, idleMs = 60_000) {
    this.#socketPath = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined;
    this.#baseUrl = this.#socketPath ? 'http://localhost' : address;
    // `timeout` closes what lies idle in the pool for so long; it does not end a request.
    this.#agent = new http.Agent({ keepAlive: true, maxSockets: MAX_CONNECTIONS, timeout: idleMs });
    this.#timeoutMs = timeoutMs;
  }

  /** Verdicts {status, uid} for the tokens of one bid request, in their order; never rejects, and never takes long. */
  async decrypt(domain, tokens) {
    const requests = tokens.map((token) => ({ token, domain }));
    const signal = AbortSignal.timeout(this.#timeoutMs); // for connect, both tries and the answer's body
    try {
      const results = requests.length === 1
        ? [await this.#post('/decrypt', requests[0], signal)]
        : (await this.#post('/decrypt/batch', { requests }, signal)).results;
      if (results?.length !== tokens.length || !results[0].status) throw new Error('HTTP 200 of something else');
      return results;
    } catch (error) {
      // Names and codes only: a message could quote what was received. Count by reason where there is traffic.
      console.error(`no verdict: ${error.httpStatus ?? error.code ?? error.name}`);
      return tokens.map(() => NO_VERDICT);
    }
  }

  async #post(path, body, signal) {
    try {
      return await this.#postOnce(path, body, signal);
    } catch (error) {
      // Closed by the sidecar while idle. A request may be repeated: it always gets the same answer.
      if (!error.wasClosedWhileIdle) throw error;
      return this.#postOnce(path, body, signal);
    }
  }

  #postOnce(path, body, signal) {
    const content = Buffer.from(JSON.stringify(body));
    const headers = { 'Content-Type': 'application/json', 'Content-Length': content.length };
    const options = { method: 'POST', agent: this.#agent, socketPath: this.#socketPath, headers, signal };
    return new Promise((resolve, reject) => {
      const request = http.request(new URL(path, this.#baseUrl), options, (response) => {
        if (response.statusCode === 200) {
          resolve(json(response));
        } else {
          response.resume(); // to its end, or else the connection is not used again
          reject(Object.assign(new Error(), { httpStatus: `HTTP ${response.statusCode}` }));
        }
      });
      request.on('error', (error) => {
        const wasClosedWhileIdle = request.reusedSocket && ['ECONNRESET', 'EPIPE'].includes(error.code);
        reject(Object.assign(error, { wasClosedWhileIdle }));
      });
      request.end(content);
    });
  }
}

// Take bid requests from stdin, a line each: domain or nothing, then tokens, with tabs between them.
const [address, timeoutMs, idleMs] = process.argv.slice(2);
const client = new SidecarClient(address, timeoutMs && Number(timeoutMs), idleMs && Number(idleMs));
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [domain, ...tokens] = line.split('\t');
  for (const verdict of await client.decrypt(domain || null, tokens)) {
    console.log(verdict.status, verdict.uid ?? '-');
  }
}
process.exit(); // do not wait for idle connections
