// Sends the same request several times with a client in its default settings, and prints each answer:
// client.js http|fetch|undici|axios URL BODY COUNT.
import http from "node:http";

const [name, url, body, count] = process.argv.slice(2);
const options = { method: "POST", headers: { "Content-Type": "application/json" }, body };

const withHttp = () =>
  new Promise((resolve, reject) => {
    const request = http.request(url, { method: "POST", headers: options.headers }, async (answer) => {
      const parts = await answer.toArray();
      resolve([answer.statusCode, Buffer.concat(parts).toString()]);
    });
    request.on("error", reject);
    request.end(body);
  });

const withFetch = async () => {
  const answer = await fetch(url, options);
  return [answer.status, await answer.text()];
};

const withUndici = async () => {
  const { request } = await import("undici");
  const answer = await request(url, options);
  return [answer.statusCode, await answer.body.text()];
};

const withAxios = async () => {
  const { default: axios } = await import("axios");
  const answer = await axios.post(url, body, { headers: options.headers, responseType: "text" });
  return [answer.status, typeof answer.data === "string" ? answer.data : JSON.stringify(answer.data)];
};

const post = { http: withHttp, fetch: withFetch, undici: withUndici, axios: withAxios }[name];
for (let i = 0; i < Number(count); i++) {
  console.log(...(await post()));
}
process.exit(0);
