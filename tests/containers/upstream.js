// The app in a container. Port 3000 speaks HTTP; port 4000 answers each connection with the bytes of the head that it got;
// port 4500 answers with bytes that are prepared for each path.
const http = require('node:http');
const net = require('node:net');

const who = process.argv[2];
let go = () => {};

const acts = {
  '/hang-up': (request) => request.socket.destroy(),
  '/silence': () => {},
  '/half': (request, response) => {
    response.writeHead(200, { 'Content-Length': '100' });
    response.write('half', () => setTimeout(() => request.socket.destroy(), 50));
  },
  '/half-chunked': (request, response) => {
    response.write('half', () => setTimeout(() => request.socket.destroy(), 50));
  },
  // The second part comes once somebody has asked for /go.
  '/slow': (request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/plain' });
    response.write('first\n');
    go = () => response.end('second\n');
  },
  '/go': (request, response) => {
    go();
    response.end('gone');
  },
  '/events': (request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/event-stream' });
    response.write('data: one\n\n');
  },
  // Answers each part of the upload as it comes.
  '/parts': (request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/plain' });
    request.on('data', (part) => response.write(`${part.length}\n`));
    request.on('end', () => response.end('end\n'));
  },
  '/count': (request, response) => {
    let bytes = 0;
    request.on('data', (part) => { bytes += part.length; });
    request.on('end', () => response.end(String(bytes)));
  },
  '/large': (request, response) => {
    let left = 64;
    const more = () => {
      while (left > 0) {
        left -= 1;
        if (!response.write(Buffer.alloc(65536, 'x'))) {
          response.once('drain', more);
          return;
        }
      }
      response.end();
    };
    more();
  },
  '/hop': (request, response) => {
    response.writeHead(200, {
      Connection: 'close, X-Hop', 'X-Hop': '1', 'Keep-Alive': 'timeout=5', 'Proxy-Authenticate': 'Basic',
      'Set-Cookie': ['app=1; Path=/', 'rw_preview=planted'], 'X-End': '1', Location: '//elsewhere/%2e%2e?x',
      Trailer: 'X-Trailer', 'Transfer-Encoding': 'chunked',
    });
    response.write('body');
    response.addTrailers({ 'X-Trailer': '1' });
    response.end();
  },
  '/teapot': (request, response) => {
    response.writeHead(418, 'Short and stout', { 'X-Pot': 'tea' });
    response.end('I am one');
  },
  '/empty': (request, response) => {
    response.writeHead(204);
    response.end();
  },
};

http.createServer((request, response) => {
  const act = acts[request.url.split('?')[0]];
  if (act) {
    act(request, response);
    return;
  }
  const parts = [];
  request.on('data', (part) => parts.push(part));
  request.on('end', () => {
    const body = Buffer.concat(parts).toString();
    const headers = request.rawHeaders;
    const answer = JSON.stringify({ who, method: request.method, url: request.url, headers, body });
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(answer), 'X-Who': who });
    response.end(answer);
  });
}).listen(3000, '0.0.0.0');

net.createServer((socket) => {
  let head = Buffer.alloc(0);
  socket.on('error', () => {});
  socket.on('data', (part) => {
    head = Buffer.concat([head, part]);
    if (head.includes('\r\n\r\n')) {
      socket.end(Buffer.concat([Buffer.from(`HTTP/1.1 200 OK\r\nContent-Length: ${head.length}\r\n\r\n`), head]));
    }
  });
}).listen(4000, '0.0.0.0');

const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n';
const prepared = {
  '/stream': `${chunked}5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n`,
  '/bad-chunk': `${chunked}ZZ\r\nhello\r\n0\r\n\r\n`,
  '/bad-later': `${chunked}5\r\nhello\r\nZZ\r\n`,
  '/until-close': 'HTTP/1.1 200 OK\r\n\r\nhello world',
  '/not-modified': 'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nContent-Length: 99\r\n\r\n',
  '/reason': 'HTTP/1.1 299 My own reason\r\nContent-Length: 2\r\n\r\nab',
  '/ours': 'HTTP/1.1 200 OK\r\nX-Internal-Service-Key: k\r\nX-Daemon-Token: k\r\nX-Admin-Token: k\r\n'
    + 'X-Terragon-Internal-Signature: k\r\nProxy-Authenticate: Basic\r\nProxy-Authentication-Info: x\r\n'
    + 'Authentication-Info: x\r\nContent-Length: 0\r\n\r\n',
};

net.createServer((socket) => {
  let head = '';
  socket.on('error', () => {});
  socket.on('data', (part) => {
    head += part;
    if (head.includes('\r\n\r\n')) {
      socket.end(prepared[head.split(' ')[1]]);
    }
  });
}).listen(4500, '0.0.0.0');
