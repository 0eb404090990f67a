//! Tokens under attack, and by the clock.

use super::*;

#[tokio::test(start_paused = true)]
async fn every_kind_says_what_it_was_made_for() {
    let house = house().await;
    let ends = house.in_seconds(1800);
    let cookie = house.tokens.verify_cookie(&house.cookie().await).await.unwrap();
    assert_eq!((&cookie.binding, cookie.revocation_version), (&binding(), 7));
    let first = house.tokens.mint_exchange(&binding(), ends).await.unwrap();
    let first = house.tokens.verify_exchange(&first).await.unwrap();
    let second = house.tokens.mint_exchange(&binding(), ends).await.unwrap();
    let second = house.tokens.verify_exchange(&second).await.unwrap();
    assert_eq!(first.binding, binding());
    assert!(first.jti != second.jti && first.nonce != second.nonce && first.nonce.len() == 32);
    let marks = first.marks();
    assert_eq!(marks[0], format!("terragon:v1:preview:exchange:jti:{}", first.jti));
    assert_eq!(marks[1], format!("terragon:v1:preview:exchange:nonce:{}", first.nonce));
    assert_eq!((single_use_ms(Exchange), single_use_ms(KeyNamespace::Broadcast)), (420_000, 180_000));
    let broadcast = house.tokens.mint_broadcast(&binding(), ends).await.unwrap();
    let broadcast = house.tokens.verify_broadcast(&broadcast).await.unwrap();
    assert_eq!((broadcast.schema_version, broadcast.channel_type.as_str()), (1, "preview"));
    let signed = house.tokens.sign_origin(&origin(), ends).await.unwrap();
    assert_eq!(*house.tokens.verify_origin(&signed).await.unwrap(), origin());
    assert!(!format!("{:?}{:?}", house.tokens, house.keys).contains('['));
}

#[tokio::test(start_paused = true)]
async fn a_forged_token_is_refused() {
    let house = house().await;
    let token = house.cookie().await;
    let parts: Vec<&str> = token.split('.').collect();
    let (none, hs512) = ("eyJhbGciOiJub25lIiwia2lkIjoiazEifQ", "eyJhbGciOiJIUzUxMiIsImtpZCI6ImsxIn0");
    for forged in [
        format!("{none}.{}.", parts[1]),
        format!("{none}.{}.{}", parts[1], parts[2]),
        format!("{hs512}.{}.{}", parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], parts[2].chars().rev().collect::<String>()),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}", parts[0], parts[1]),
        token[..token.len() - 1].to_owned(),
        format!("{token}A"),
        format!("{token}{}", "A".repeat(10_000)),
        "x".repeat(10_000),
        String::new(),
        "..".to_owned(),
    ] {
        house.refuses(&forged).await;
    }
    // The payload as it should be, so that each of the next fails for its own reason.
    let good = house.payload();
    assert!(house.tokens.verify_cookie(&sign(Some("k1"), 1, &good)).await.is_ok());
    house.refuses(&sign(None, 1, &good)).await;
    house.refuses(&sign(Some("k9"), 1, &good)).await;
    house.refuses(&sign(Some("k1"), 9, &good)).await;
    // With the keys of another namespace, by their own name and by this one's.
    house.refuses(&sign(Some("k2"), 2, &good)).await;
    house.refuses(&sign(Some("k1"), 2, &good)).await;
    for (name, value) in [
        ("iss", json!("runwarden")),
        ("aud", json!("preview-session-exchange")),
        ("aud", json!(["preview-session-cookie", "preview-session-exchange"])),
        ("exp", json!("soon")),
        ("iat", json!(1.5)),
        ("nbf", Value::Null),
        ("revocationVersion", json!("7")),
        ("userId", json!("")),
        ("sandboxProvider", json!("vm")),
    ] {
        let mut bent = good.clone();
        bent[name] = value;
        house.refuses(&sign(Some("k1"), 1, &bent)).await;
        bent.as_object_mut().unwrap().remove(name);
        house.refuses(&sign(Some("k1"), 1, &bent)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_kind_passes_for_another() {
    let house = house().await;
    let ends = house.in_seconds(60);
    let cookie = house.cookie().await;
    let exchange = house.tokens.mint_exchange(&binding(), ends).await.unwrap();
    let broadcast = house.tokens.mint_broadcast(&binding(), ends).await.unwrap();
    let origin = house.tokens.sign_origin(&origin(), ends).await.unwrap();
    for token in [&cookie, &broadcast, &origin] {
        assert_eq!(house.tokens.verify_exchange(token).await, Err(SignatureMismatch));
    }
    for token in [&cookie, &exchange, &origin] {
        assert_eq!(house.tokens.verify_broadcast(token).await, Err(SignatureMismatch));
    }
    for token in [&cookie, &exchange, &broadcast] {
        assert_eq!(house.tokens.verify_origin(token).await, Err(SignatureMismatch));
    }
    for token in [&exchange, &broadcast, &origin] {
        house.refuses(token).await;
    }
    // Broadcast of a future schema or of another channel.
    house.store.inner.revoke_key(KeyNamespace::Broadcast, "none", &key(4)).await.unwrap();
    let ring = house.store.inner.rotate_key(KeyNamespace::Broadcast, &key(5), 1000).await.unwrap();
    assert_eq!(ring.active.kid, "k5");
    house.pass(5).await;
    let mut payload = house.payload();
    let now = house.clock.now().as_millis() / 1000;
    payload["aud"] = json!("preview-session-broadcast");
    payload["exp"] = json!(now + 60);
    payload["iat"] = json!(now);
    for (version, channel, good) in [(1, "preview", true), (2, "preview", false), (1, "runs", false)] {
        payload["jti"] = json!("j");
        payload["schemaVersion"] = json!(version);
        payload["channelType"] = json!(channel);
        assert_eq!(house.tokens.verify_broadcast(&sign(Some("k5"), 5, &payload)).await.is_ok(), good);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_session_user_or_run_is_not_this_ones() {
    let house = house().await;
    let claims = house.tokens.verify_cookie(&house.cookie().await).await.unwrap();
    assert_eq!(claims.check_binding(&binding()), Ok(()));
    let other = "01935d3e-7c00-7000-8000-000000000009";
    let changed: [fn(&mut PreviewBinding, &str); 7] = [
        |b, other| b.preview_session_id = PreviewSessionId::parse(other).unwrap(),
        |b, other| b.thread_id = ThreadId::parse(other).unwrap(),
        |b, other| b.thread_chat_id = ThreadChatId::parse(other).unwrap(),
        |b, other| b.run_id = RunId::parse(other).unwrap(),
        |b, other| b.user_id = UserId::parse(other).unwrap(),
        |b, other| b.codesandbox_id = CodesandboxId::parse(other).unwrap(),
        |b, _| b.sandbox_provider = SandboxProvider::Process,
    ];
    for change in changed {
        let mut session = binding();
        change(&mut session, other);
        assert_eq!(claims.check_binding(&session), Err(BindingMismatch), "{session:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_life_ends_at_its_end_and_the_skew_remembered_or_not() {
    let house = house().await;
    let now = house.clock.now().as_millis() / 1000;
    let mut payload = house.payload();
    payload["exp"] = json!(now + 100);
    let remembered = sign(Some("k1"), 1, &payload);
    house.tokens.verify_cookie(&remembered).await.unwrap();
    house.clock.advance_ms(159_999);
    house.tokens.verify_cookie(&remembered).await.unwrap();
    let mut fresh = payload.clone();
    fresh["revocationVersion"] = json!(8);
    house.tokens.verify_cookie(&sign(Some("k1"), 1, &fresh)).await.unwrap();
    house.clock.advance_ms(1);
    assert_eq!(house.tokens.verify_cookie(&remembered).await, Err(Expired));
    fresh["revocationVersion"] = json!(9);
    assert_eq!(house.tokens.verify_cookie(&sign(Some("k1"), 1, &fresh)).await, Err(Expired));

    // Not yet valid: from the skew before its begin on.
    let mut early = house.payload();
    let now = house.clock.now().as_millis();
    for name in ["nbf", "iat"] {
        early[name] = json!(now.div_euclid(1000) + 61);
    }
    early["exp"] = json!(now.div_euclid(1000) + 100);
    let early = sign(Some("k1"), 1, &early);
    house.refuses(&early).await;
    let until_then = (now.div_euclid(1000) + 1) * 1000 - now;
    house.clock.advance_ms(until_then - 1);
    house.refuses(&early).await;
    house.clock.advance_ms(1);
    house.tokens.verify_cookie(&early).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_token_lives_longer_than_its_kind() {
    let house = house().await;
    let now = house.clock.now().as_millis() / 1000;
    for (exp, good) in [(now + 1800, true), (now + 1801, false), (i64::MAX, false), (now, false), (now - 1, false)] {
        let mut payload = house.payload();
        payload["exp"] = json!(exp);
        assert_eq!(house.tokens.verify_cookie(&sign(Some("k1"), 1, &payload)).await.is_ok(), good, "{exp}");
    }
    // A begin in the far past makes it a long life too.
    let mut payload = house.payload();
    payload["iat"] = json!(i64::MIN);
    house.refuses(&sign(Some("k1"), 1, &payload)).await;
    // Minted: at most the kind's life, and not longer than the session.
    let life = |token: String| {
        let claims = jsonwebtoken::dangerous::insecure_decode::<Value>(token).unwrap().claims;
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    let far = house.in_seconds(1_000_000);
    let near = house.in_seconds(20);
    assert_eq!(life(house.tokens.mint_exchange(&binding(), far).await.unwrap()), 300);
    assert_eq!(life(house.tokens.mint_broadcast(&binding(), far).await.unwrap()), 60);
    assert_eq!(life(house.tokens.mint_cookie(&binding(), 1, far).await.unwrap()), 1800);
    assert_eq!(life(house.tokens.mint_exchange(&binding(), near).await.unwrap()), 20);
    assert_eq!(house.tokens.mint_cookie(&binding(), 1, house.clock.now()).await, Err(Expired));
}
