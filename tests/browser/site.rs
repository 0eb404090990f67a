//! The app that is previewed: pages with relative and with absolute paths, a login of its own, a WebSocket.

use std::net::SocketAddr;

use actix_web::http::header;
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use futures_util::StreamExt as _;

const PAGE: &str = r#"<!doctype html><html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>The app</title></head>
<body><h1>Hello from the sandbox</h1><img id="dot" src="BASEdot.svg" alt="a dot"><script src="BASEapp.js"></script></body></html>"#;
const DOT: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><circle cx="4" cy="4" r="4"/></svg>"#;

/// Starts it on a free port; it ends with its system.
pub fn start() -> SocketAddr {
    let server = HttpServer::new(|| {
        let page = |base: &'static str| {
            move || async move { HttpResponse::Ok().content_type("text/html").body(PAGE.replace("BASE", base)) }
        };
        App::new()
            .route("/", web::get().to(page("")))
            .route("/absolute", web::get().to(page("/")))
            .route("/health", web::get().to(HttpResponse::Ok))
            .route("/dot.svg", web::get().to(|| async { HttpResponse::Ok().content_type("image/svg+xml").body(DOT) }))
            .route("/app.js", web::get().to(script))
            .route("/login", web::post().to(login))
            .route("/me", web::get().to(me))
            .route("/echo", web::get().to(echo))
    });
    let server = server.workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
    let address = server.addrs()[0];
    actix_web::rt::spawn(server.run());
    address
}

async fn script() -> HttpResponse {
    HttpResponse::Ok().content_type("text/javascript").body("document.body.dataset.script = 'ran';")
}

async fn login() -> HttpResponse {
    let cookie = (header::SET_COOKIE, "user=ada; Path=/; HttpOnly; SameSite=Lax");
    HttpResponse::SeeOther().insert_header(cookie).insert_header((header::LOCATION, "/me")).finish()
}

/// Every cookie that the app is sent.
async fn me(request: HttpRequest) -> HttpResponse {
    let cookies = request.headers().get_all(header::COOKIE).map(|value| value.to_str().unwrap());
    HttpResponse::Ok().content_type("text/plain").body(cookies.collect::<Vec<_>>().join("; "))
}

async fn echo(request: HttpRequest, payload: web::Payload) -> actix_web::Result<HttpResponse> {
    let (response, mut session, mut messages) = actix_ws::handle(&request, payload)?;
    actix_web::rt::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            if let actix_ws::Message::Text(text) = message
                && session.text(format!("echo {text}")).await.is_err()
            {
                return;
            }
        }
    });
    Ok(response)
}
