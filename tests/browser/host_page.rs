//! A host application: one page with the element, under a strict policy, on an origin of its own.

use std::net::TcpListener;

use actix_web::http::header;
use actix_web::{App, HttpResponse, HttpServer, web};
use serde_json::json;

use crate::app::{Options, TestServer};

/// Where the page will be: the server has to know before it starts.
pub struct Door(TcpListener);

impl Door {
    /// A free port.
    pub fn open() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    pub fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Lets the page embed previews, under both of its names.
    pub fn lets_in(&self, options: Options) -> Options {
        let port = self.port();
        options.set("PREVIEW_FRAME_ANCESTORS", format!("http://localhost:{port} http://127.0.0.1:{port}"))
    }
}

/// What the page is made of.
#[derive(Clone)]
pub struct HostPage {
    /// `http://127.0.0.1:PORT` or another name of the server.
    pub server: String,
    /// Attributes of the element, as HTML.
    pub attributes: String,
    /// Handed out one after the other by `getExchangeToken`.
    pub tokens: Vec<String>,
    /// Also allowed to be framed and posted to: preview hosts.
    pub hosts: String,
}

impl HostPage {
    /// For a session, with some fresh tokens.
    pub async fn of(server: &TestServer, session: &str, attributes: &str) -> Self {
        let mut tokens = Vec::new();
        for _ in 0..4 {
            let path = format!("/api/internal/preview/session/{session}/exchange-token");
            let (status, body) = server.post(&path, json!({})).await;
            assert_eq!(status, 200, "{body}");
            tokens.push(body["exchangeToken"].as_str().unwrap().to_owned());
        }
        Self {
            server: server.url.clone(),
            attributes: format!("session-id=\"{session}\" {attributes}"),
            tokens,
            hosts: String::new(),
        }
    }

    fn page(&self) -> String {
        format!(
            r#"<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Host</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<script src="{0}/api/preview/embed.js"></script><script src="/page.js"></script></head>
<body><h1>Run 1</h1><runwarden-preview server="{0}" {1}></runwarden-preview></body></html>"#,
            self.server, self.attributes
        )
    }

    /// Keeps what the element tells, and gives it tokens.
    fn script(&self) -> String {
        format!(
            "window.told = []; window.tokens = {};
             document.addEventListener('runwarden-state', (event) => told.push(event.detail));
             document.addEventListener('runwarden-restart', () => (window.restarted = true));
             document.addEventListener('securitypolicyviolation', (event) => told.push(event.violatedDirective));
             addEventListener('DOMContentLoaded', () => {{
               document.querySelector('runwarden-preview').getExchangeToken = async () => tokens.shift();
             }});",
            json!(self.tokens)
        )
    }

    fn policy(&self) -> String {
        let Self { server, hosts, .. } = self;
        let socket = server.replace("http", "ws");
        format!(
            "default-src 'none'; script-src 'self' {server}; connect-src {server} {socket} {hosts}; \
             frame-src {server} {hosts}; form-action {server} {hosts}; base-uri 'none'"
        )
    }

    /// Serves it at the door, whose port is returned; it ends with its system.
    pub fn serve(self, door: &Door) -> u16 {
        let server = HttpServer::new(move || {
            let (page, script) = (self.clone(), self.clone());
            App::new()
                .route(
                    "/",
                    web::get().to(move || {
                        let page = page.clone();
                        async move {
                            let policy = (header::CONTENT_SECURITY_POLICY, page.policy());
                            HttpResponse::Ok().insert_header(policy).content_type("text/html").body(page.page())
                        }
                    }),
                )
                .route(
                    "/page.js",
                    web::get().to(move || {
                        let script = script.script();
                        async move { HttpResponse::Ok().content_type("text/javascript").body(script) }
                    }),
                )
        });
        let server = server.workers(1).disable_signals().listen(door.0.try_clone().unwrap()).unwrap();
        actix_web::rt::spawn(server.run());
        door.port()
    }
}
