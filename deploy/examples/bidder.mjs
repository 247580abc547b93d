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

  /** The raw uids {scope, uid} in a bid request (a string or a buffer) to bid with, if any; as `decrypt` otherwise. */
  async rawIds(bidRequest) {
    const failures = new Map();
    const ids = await this.#ask('/openrtb', bidRequest, (answer) => answer.ids.filter(({ status }) => {
      if (status !== 'SUCCESS') failures.set(status, (failures.get(status) ?? 0) + 1);
      return status === 'SUCCESS';
    }));
    for (const [status, count] of failures) console.error(`not decrypted: ${status} ${count}`);
    return ids ?? [];
  }

  /** Verdicts {status, uid} for tokens, in order; never rejects, and resolves within the timeout. */
  async decrypt(domain, tokens) {
    const requests = tokens.map((token) => ({ token, domain }));
    const isSingle = requests.length === 1;
    const [path, body] = isSingle ? ['/decrypt', requests[0]] : ['/decrypt/batch', { requests }];
    const verdicts = await this.#ask(path, JSON.stringify(body), (answer) => {
      const results = isSingle ? [answer] : answer.results;
      if (results.length !== tokens.length || !results[0].status) throw new Error('HTTP 200 of something else');
      return results;
    });
    return verdicts ?? tokens.map(() => NO_VERDICT);
  }

  /** What `read` makes of the answer; undefined without a usable answer in time. */
  async #ask(path, body, read) {
    const signal = AbortSignal.timeout(this.#timeoutMs); // covers connecting, both attempts and the response body
    try {
      return read(await this.#post(path, body, signal));
    } catch (error) {
      // Names and codes only: a message could quote the response. With real traffic, count by reason.
      console.error(`no verdict: ${error.httpStatus ?? error.code ?? error.name}`);
      return undefined;
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
    const content = Buffer.from(body);
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

// Read lines from stdin: bid requests in JSON, or a domain or nothing, then tokens, separated by tabs.
const [address, timeoutMs, idleMs] = process.argv.slice(2);
const client = new SidecarClient(address, timeoutMs && Number(timeoutMs), idleMs && Number(idleMs));
for await (const line of readline.createInterface({ input: process.stdin })) {
  if (line.startsWith('{')) {
    const ids = await client.rawIds(line);
    console.log(ids.map(({ scope, uid }) => `${scope}:${uid}`).join(' ') || '-');
    continue;
  }
  const [domain, ...tokens] = line.split('\t');
  for (const verdict of await client.decrypt(domain || null, tokens)) {
    console.log(verdict.status, verdict.uid ?? '-');
  }
}
process.exit(); // do not wait for idle connections
