// The peer: http-proxy-middleware in one process, with kept connections to the upstream.
import http from "node:http";
import { createProxyMiddleware } from "http-proxy-middleware";

const [port, upstream] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 256, maxFreeSockets: 256 });
const proxy = createProxyMiddleware({ target: `http://127.0.0.1:${upstream}`, agent });
const server = http.createServer((request, response) => proxy(request, response, () => response.end()));
server.keepAliveTimeout = 75_000;
server.listen(Number(port), "127.0.0.1");
