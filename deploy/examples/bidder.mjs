// A bidder's client of the sidecar on Node; README.md explains it.
//
//     node bidder.mjs ADDRESS [TIMEOUT_MS [IDLE_MS]]
//
// Needs Node 18 and no package.
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

  /** Makes a client for http://HOST:PORT or unix:/PATH. */
  constructor(address, timeoutMs = 5, idleMs = 60_000) {
    this.#socketPath = address.startsWith('unix:') ? address.slice('unix:'.length) : undefined;
    this.#baseUrl = this.#socketPath ? 'http://localhost' : address;
    // `timeout` closes idle connections of the pool; it does not end requests.
    this.#agent = new http.Agent({ keepAlive: true, maxSockets: MAX_CONNECTIONS, timeout: idleMs });
    this.#timeoutMs = timeoutMs;
  }

  /** Verdicts {status, uid} for the tokens of one bid request, in their order; never rejects, and never takes long. */
  async decrypt(domain, tokens) {
    const requests = tokens.map((token) => ({ token, domain }));
    const signal = AbortSignal.timeout(this.#timeoutMs); // covers connecting, both attempts and the response body
    try {
      const results = requests.length === 1
        ? [await this.#post('/decrypt', requests[0], signal)]
        : (await this.#post('/decrypt/batch', { requests }, signal)).results;
      if (results?.length !== tokens.length || !results[0].status) throw new Error('HTTP 200 of something else');
      return results;
    } catch (error) {
      // Names and codes only: a message could quote the response. With real traffic, count by reason.
      console.error(`no verdict: ${error.httpStatus ?? error.code ?? error.name}`);
      return tokens.map(() => NO_VERDICT);
    }
  }

  async #post(path, body, signal) {
    try {
      return await this.#postOnce(path, body, signal);
    } catch (error) {
      // The sidecar closed the idle connection. Retrying is safe: the answer is the same.
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
          response.resume(); // a connection is reused only after a complete read
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

// Read bid requests from stdin, one a line: the domain or nothing, then tokens, separated by tabs.
const [address, timeoutMs, idleMs] = process.argv.slice(2);
const client = new SidecarClient(address, timeoutMs && Number(timeoutMs), idleMs && Number(idleMs));
for await (const line of readline.createInterface({ input: process.stdin })) {
  const [domain, ...tokens] = line.split('\t');
  for (const verdict of await client.decrypt(domain || null, tokens)) {
    console.log(verdict.status, verdict.uid ?? '-');
  }
}
process.exit(); // do not wait for idle connections
