//! Bad connections: whatever they do, every message arrives exactly once and in order.

use runwarden::daemon::{ExecOptions, Limits, Outcome, exec};
use runwarden::demo::link::{Fault, FaultPlan, FaultyLink, LinkStats};

use crate::server::{Server, State};
use crate::support::{Place, quick, run_id, says};

const MESSAGES: u32 = 300;

fn assert_complete(state: &State, what: &str) {
    assert_eq!(state.numbers(), (0..u64::from(MESSAGES)).collect::<Vec<_>>(), "{what}");
    assert_eq!(state.late_gaps, [] as [i64; 0], "{what}");
    assert_eq!(state.last_message()["type"], "result", "{what}");
    let seqs: Vec<_> = state.events.iter().map(|event| event.seq.get()).collect();
    assert_eq!(seqs, (0..i64::try_from(seqs.len()).unwrap()).collect::<Vec<_>>(), "{what}");
}

async fn run_over(plan: FaultPlan, server: &Server) -> (Outcome, std::sync::Arc<LinkStats>) {
    let place = Place::new();
    let link = FaultyLink::start(&server.url, plan).unwrap();
    let (options, _switch) = place.options(link.url(), &says(MESSAGES));
    let outcome = exec(options).await.unwrap();
    let stats = link.stats();
    link.stop().await;
    (outcome, stats)
}

#[actix_web::test]
async fn over_streams_that_cut_repeat_replay_and_lose() {
    let mut made = [0; Fault::ALL.len()];
    for seed in 1..=8 {
        let server = Server::start(run_id());
        let (outcome, stats) = run_over(FaultPlan::nasty(seed), &server).await;
        assert_eq!(outcome.exit_code, 0);
        assert_complete(&server.state(), &format!("seed {seed}"));
        assert!(stats.connections() > 1, "seed {seed} broke nothing");
        for fault in Fault::ALL {
            made[*fault as usize] += stats.made(*fault);
        }
    }
    for fault in [
        Fault::FrameLost,
        Fault::CutInFrame,
        Fault::CutAfterFrame,
        Fault::FrameDuplicated,
        Fault::FrameReplayed,
        Fault::FrameDelayed,
        Fault::AckLost,
    ] {
        assert!(made[fault as usize] > 0, "{} was never tried", fault.as_str());
    }
}

#[actix_web::test]
async fn over_http_that_loses_repeats_and_delays() {
    let mut made = [0; Fault::ALL.len()];
    for seed in 1..=4 {
        let server = Server::start(run_id());
        let plan = FaultPlan { refuse_stream: Some(501), ..FaultPlan::nasty(seed) };
        let (_, stats) = run_over(plan, &server).await;
        assert_complete(&server.state(), &format!("seed {seed}"));
        assert_eq!(server.state().streams, 0);
        for fault in Fault::ALL {
            made[*fault as usize] += stats.made(*fault);
        }
    }
    for fault in [
        Fault::RequestLost,
        Fault::ResponseLost,
        Fault::RequestDuplicated,
        Fault::RequestReplayed,
        Fault::RequestDelayed,
    ] {
        assert!(made[fault as usize] > 0, "{} was never tried", fault.as_str());
    }
}

#[actix_web::test]
async fn over_a_link_without_faults_nothing_is_sent_twice() {
    let server = Server::start(run_id());
    let (outcome, stats) = run_over(FaultPlan::none(), &server).await;
    assert_complete(&server.state(), "no faults");
    assert_eq!((stats.made_in_all(), stats.connections(), stats.requests()), (0, 1, 0));
    assert_eq!(stats.frames(), outcome.deliveries.acknowledged);
    assert_eq!(server.state().duplicates, 0);
}

#[actix_web::test]
async fn a_full_spool_holds_the_agent_back_and_drops_nothing() {
    let place = Place::new();
    let server = Server::start(run_id());
    {
        let mut state = server.state();
        state.stream = crate::server::Stream::Refused(404);
        state.http_down = Some(503);
    }
    // 600 KiB do not fit into spool, batch, read buffer and pipe together, so the agent cannot end before its time.
    let script = "pad=$(head -c 2000 /dev/zero | tr '\\0' x); i=0
        while [ $i -lt 300 ]; do echo '{\"type\":\"assistant\",\"n\":'$i',\"pad\":\"'$pad'\"}'; i=$((i+1)); done
        touch \"$1/done\"";
    let (options, _switch) = place.options(&server.url, script);
    let options = ExecOptions { limits: Limits { spool_bytes: 32 * 1024, ..quick() }, ..options };
    let heal = async {
        crate::support::eventually("attempts in vain", || server.state().posts > 20).await;
        assert!(!place.path("done").exists());
        assert!(std::fs::metadata(place.spool()).unwrap().len() < 64 * 1024);
        server.state().http_down = None;
    };
    let (outcome, ()) = tokio::join!(exec(options), heal);
    outcome.unwrap();
    assert!(place.path("done").exists());
    assert_complete(&server.state(), "after the outage");
}
