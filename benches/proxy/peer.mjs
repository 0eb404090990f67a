// The peer: http-proxy-middleware in one process, as its documentation sets it up, which makes a connection to the
// upstream for each request; or, told `kept`, with an agent that keeps them.
import http from "node:http";
import { createProxyMiddleware } from "http-proxy-middleware";

const [port, upstream, connections] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 256, maxFreeSockets: 256 });
const target = `http://127.0.0.1:${upstream}`;
const proxy = createProxyMiddleware(connections === "kept" ? { target, agent } : { target });
const server = http.createServer((request, response) => proxy(request, response, () => response.end()));
server.keepAliveTimeout = 75_000;
server.listen(Number(port), "127.0.0.1");
