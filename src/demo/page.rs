//! A host application of one page, for a person's own browser: it shows the preview, and gives it a fresh token whenever
//! one is needed. So the link to it holds no secret.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::dev::ServerHandle;
use actix_web::http::header::{self, HeaderMap};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use anyhow::Context;
use runwarden_actors::contract::PreviewSessionState;
use secrecy::SecretString;

use super::host::{Host, NewRun};
use super::preview::Session;

const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// Where the page will be. It is known before the server starts, which lets pages of no other origin in.
pub(super) struct Door(TcpListener, u16);

impl Door {
    /// A free port of loopback.
    pub(super) fn open() -> anyhow::Result<Self> {
        let door = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("the page for your browser has no port")?;
        let port = door.local_addr().context("the page has no address")?.port();
        Ok(Self(door, port))
    }

    /// What the page's address may begin with, as `PREVIEW_FRAME_ANCESTORS` takes it.
    pub(super) fn origins(&self) -> String {
        format!("http://127.0.0.1:{0} http://localhost:{0}", self.1)
    }
}

/// The page's server. It ends with the demonstration.
pub(super) struct Page {
    pub(super) link: String,
    handle: ServerHandle,
}

/// What its routes work with.
struct State {
    host: Host,
    server: String,
    run: NewRun,
    session: Arc<Mutex<Session>>,
}

impl Page {
    /// Serves it at this door.
    pub(super) fn serve(
        Door(listener, port): Door,
        server: &str,
        key: &SecretString,
        run: &NewRun,
        session: Session,
    ) -> anyhow::Result<Self> {
        let (server, key, run) = (server.to_owned(), key.clone(), run.clone());
        let session = Arc::new(Mutex::new(session));
        let listening = HttpServer::new(move || {
            let state = State {
                host: Host::new(&server, &key),
                server: server.clone(),
                run: run.clone(),
                session: Arc::clone(&session),
            };
            App::new()
                .app_data(web::Data::new(state))
                .route("/", web::get().to(page))
                .route("/page.js", web::get().to(|| async { text("text/javascript; charset=utf-8", SCRIPT) }))
                .route("/page.css", web::get().to(|| async { text("text/css; charset=utf-8", STYLE) }))
                .route("/token", web::post().to(token))
        });
        let listening = listening.workers(1).disable_signals().listen(listener);
        let running = listening.context("the page for your browser does not start")?.run();
        let handle = running.handle();
        actix_web::rt::spawn(running);
        Ok(Self { link: format!("http://127.0.0.1:{port}/"), handle })
    }

    pub(super) async fn stop(self) {
        self.handle.stop(false).await;
    }
}

fn text(kind: &'static str, body: &'static str) -> HttpResponse {
    HttpResponse::Ok().content_type(kind).insert_header((header::CACHE_CONTROL, "no-store")).body(body)
}

/// The page for an open session; another session is started where the last one has ended.
async fn page(state: web::Data<State>, request: HttpRequest) -> HttpResponse {
    if !is_own(request.headers()) {
        return HttpResponse::Forbidden().finish();
    }
    let known = state.session.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let open = state.host.preview(known.preview_session_id).await;
    let session = if open.is_ok_and(|open| open.state == PreviewSessionState::Ready) {
        known
    } else {
        match state.host.start_preview(&state.run).await {
            Ok(session) => session,
            Err(error) => return HttpResponse::BadGateway().body(format!("{error:#}")),
        }
    };
    *state.session.lock().unwrap_or_else(PoisonError::into_inner) = session.clone();
    let host = session.preview_host.unwrap_or_default();
    let port = state.server.rsplit_once(':').map_or("", |(_, port)| port);
    let suffix = host.split_once('.').map_or("", |(_, suffix)| suffix);
    let previews = format!("http://*.{suffix}:{port}");
    let socket = state.server.replacen("http", "ws", 1);
    let policy = format!(
        "default-src 'none'; script-src 'self' {server}; style-src 'self'; connect-src 'self' {server} {socket} \
         {previews}; frame-src {previews}; form-action {previews}; base-uri 'none'; frame-ancestors 'none'",
        server = state.server,
    );
    let body = PAGE
        .replace("{server}", &state.server)
        .replace("{session}", &session.preview_session_id.to_string())
        .replace("{host}", &host);
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((header::CONTENT_SECURITY_POLICY, policy))
        .body(body)
}

/// A fresh token, for this page alone.
async fn token(state: web::Data<State>, request: HttpRequest) -> HttpResponse {
    if !is_own(request.headers()) {
        return HttpResponse::Forbidden().finish();
    }
    let session = state.session.lock().unwrap_or_else(PoisonError::into_inner).preview_session_id;
    match state.host.exchange_token(session).await {
        Ok(token) => HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(token),
        Err(_) => HttpResponse::BadGateway().finish(),
    }
}

/// Under its own name, and not from a page of anybody else: a name that leads to loopback is no permission.
fn is_own(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let named = text("host").and_then(|host| host.rsplit_once(':')).map(|(name, _)| name);
    matches!(named, Some("127.0.0.1" | "localhost"))
        && matches!(text("sec-fetch-site"), None | Some("same-origin" | "none"))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn only_its_own_page_gets_tokens() {
        let asked = |host: &str, site: Option<&str>| {
            let mut request = TestRequest::default().insert_header(("host", host));
            if let Some(site) = site {
                request = request.insert_header(("sec-fetch-site", site));
            }
            is_own(request.to_http_request().headers())
        };
        assert!(asked("127.0.0.1:4000", Some("same-origin")) && asked("localhost:4000", None));
        assert!(asked("127.0.0.1:4000", Some("none")));
        assert!(!asked("127.0.0.1:4000", Some("cross-site")) && !asked("127.0.0.1:4000", Some("same-site")));
        assert!(!asked("rebound.example:4000", Some("same-origin")) && !asked("", None));
    }
}
