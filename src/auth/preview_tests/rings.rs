//! Rotation, revocation, unknown keys, a store that is away, and clocks that are apart.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_previous_key_is_good_in_its_grace_and_its_namespace_only() {
    let house = house().await;
    let token = house.cookie().await;
    house.tokens.verify_cookie(&token).await.unwrap();
    let unseen = sign(Some("k1"), 1, &{
        let mut payload = house.payload();
        payload["revocationVersion"] = json!(8);
        payload
    });
    house.store.inner.rotate_key(Cookie, &key(6), 900_000).await.unwrap();
    house.pass(899).await;
    house.tokens.verify_cookie(&token).await.unwrap();
    // The new key signs.
    assert!(house.cookie().await != token);
    house.tokens.verify_cookie(&sign(Some("k6"), 6, &house.payload())).await.unwrap();
    // At the end of the grace, also while the ring in memory is fresh.
    house.clock.advance_ms(1000);
    house.refuses(&token).await;
    house.refuses(&unseen).await;
    // A key that is previous in one namespace is nothing in another.
    let mut exchange = house.payload();
    exchange["aud"] = json!("preview-session-exchange");
    exchange["exp"] = json!(house.clock.now().as_millis() / 1000 + 60);
    exchange["jti"] = json!("j");
    exchange["nonce"] = json!("n");
    assert!(house.tokens.verify_exchange(&sign(Some("k2"), 2, &exchange)).await.is_ok());
    house.store.inner.rotate_key(Cookie, &key(7), 900_000).await.unwrap();
    assert_eq!(house.tokens.verify_exchange(&sign(Some("k6"), 6, &exchange)).await, Err(SignatureMismatch));
}

#[tokio::test(start_paused = true)]
async fn a_revoked_key_ends_what_it_signed_within_a_refresh() {
    let house = house().await;
    let token = house.cookie().await;
    house.tokens.verify_cookie(&token).await.unwrap();
    house.store.inner.revoke_key(Cookie, "k1", &key(6)).await.unwrap();
    house.pass(KEY_RING_REFRESH.as_secs()).await;
    house.refuses(&token).await;
}

#[tokio::test(start_paused = true)]
async fn an_unknown_key_is_looked_up_at_once_but_not_more_than_once_a_second() {
    let house = house().await;
    house.keys.prepare().await.unwrap();
    let reads = || house.store.reads.swap(0, Ordering::SeqCst);
    assert_eq!(reads(), 4);
    house.pass(1).await;
    // Another server rotated a moment ago.
    house.store.inner.rotate_key(Cookie, &key(6), 900_000).await.unwrap();
    house.tokens.verify_cookie(&sign(Some("k6"), 6, &house.payload())).await.unwrap();
    assert_eq!(reads(), 1);
    // A stranger guesses.
    for guess in 0..50 {
        let token = sign(Some(&format!("guess-{guess}\n")), 1, &house.payload());
        assert_eq!(house.tokens.verify_cookie(&token).await, Err(SignatureMismatch));
    }
    assert_eq!(reads(), 0);
    house.pass(1).await;
    house.refuses(&sign(Some("guess"), 1, &house.payload())).await;
    assert_eq!(reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn keys_are_used_for_a_while_without_the_store_and_then_not() {
    let house = house().await;
    let token = house.cookie().await;
    house.tokens.verify_cookie(&token).await.unwrap();
    house.store.away.store(true, Ordering::SeqCst);
    house.pass(KEY_RING_STALE.as_secs() - 1).await;
    house.tokens.verify_cookie(&token).await.unwrap();
    house.store.reads.store(0, Ordering::SeqCst);
    for _ in 0..50 {
        house.tokens.verify_cookie(&token).await.unwrap();
    }
    assert_eq!(house.store.reads.load(Ordering::SeqCst), 0, "a store that is away is not asked by every request");
    house.pass(1).await;
    assert!(matches!(house.tokens.verify_cookie(&token).await, Err(Unavailable(_))));
    assert!(matches!(house.tokens.mint_cookie(&binding(), 1, house.in_seconds(60)).await, Err(Unavailable(_))));
    house.store.away.store(false, Ordering::SeqCst);
    house.pass(1).await;
    house.tokens.verify_cookie(&token).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_the_store_there_is_no_key_at_all() {
    let house = house().await;
    house.store.away.store(true, Ordering::SeqCst);
    assert!(house.keys.prepare().await.is_err());
    assert!(matches!(house.tokens.mint_cookie(&binding(), 1, house.in_seconds(60)).await, Err(Unavailable(_))));
    assert!(matches!(house.tokens.verify_cookie(&sign(Some("k1"), 1, &house.payload())).await, Err(Unavailable(_))));
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_apart_mint_nothing_and_still_verify() {
    let house = house().await;
    let token = house.cookie().await;
    for (drift_ms, mints) in [(60_000, true), (60_001, false), (-60_001, false), (-60_000, true)] {
        house.store.drift_ms.store(drift_ms, Ordering::SeqCst);
        assert_eq!(house.keys.compare_clocks().await, Ok(drift_ms));
        let minted = house.tokens.mint_cookie(&binding(), 1, house.in_seconds(1800)).await;
        assert_eq!(minted.is_ok(), mints, "{drift_ms}");
        if let Err(error) = minted {
            assert!(error.to_string().contains(&format!("{drift_ms} ms apart")), "{error}");
            assert!(house.tokens.sign_origin(&origin(), house.in_seconds(60)).await.is_err());
        }
        house.tokens.verify_cookie(&token).await.unwrap();
    }
    // Before the first comparison nothing is minted without one.
    let ids = Arc::new(TestIds::default());
    let keys = PreviewKeyRings::new(house.store.clone(), house.clock.clone(), ids.clone());
    house.store.drift_ms.store(60_001, Ordering::SeqCst);
    let tokens = PreviewTokens::new(keys, house.clock.clone(), ids);
    assert!(tokens.mint_cookie(&binding(), 1, house.in_seconds(60)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_clocks_are_compared_every_minute_until_the_end() {
    let house = house().await;
    let (shutdown, down) = tokio::sync::watch::channel(false);
    let keys = house.keys.clone();
    let watching = tokio::spawn(async move { keys.watch_clock(down).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    house.cookie().await;
    house.store.drift_ms.store(90_000, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(house.tokens.mint_cookie(&binding(), 1, house.in_seconds(60)).await.is_err());
    shutdown.send_replace(true);
    watching.await.unwrap();
}
