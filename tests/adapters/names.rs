//! Looking names up, against a name server of the test's own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::CNAME;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use runwarden::names::DnsNames;
use runwarden_actors::ports::Names as _;
use tokio::net::UdpSocket;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn alias(from: &str, to: &str, ttl: u32) -> Record {
    Record::from_rdata(name(from), ttl, RData::CNAME(CNAME(name(to))))
}

fn address(of: &str, address: &str, ttl: u32) -> Record {
    let data = match address.parse().unwrap() {
        IpAddr::V4(address) => RData::A(address.into()),
        IpAddr::V6(address) => RData::AAAA(address.into()),
    };
    Record::from_rdata(name(of), ttl, data)
}

struct NameServer {
    addr: SocketAddr,
    asked: Arc<AtomicUsize>,
}

impl NameServer {
    /// Answers each question by its family and by how many of that family came before it.
    async fn start(answer: impl Fn(RecordType, usize) -> Result<Vec<Record>, ResponseCode> + Send + 'static) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        tokio::spawn(async move {
            let mut before = std::collections::HashMap::new();
            let mut buffer = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                counter.fetch_add(1, Ordering::SeqCst);
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let family = question.queries[0].query_type();
                let count = before.entry(family).or_insert(0);
                let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
                reply.metadata.recursion_available = true;
                reply.add_query(question.queries[0].clone());
                match answer(family, *count) {
                    Ok(records) => {
                        reply.add_answers(records);
                    }
                    Err(code) => reply.metadata.response_code = code,
                }
                *count += 1;
                socket.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
            }
        });
        Self { addr, asked }
    }

    fn names(&self) -> DnsNames {
        DnsNames::with_servers(&[self.addr]).unwrap()
    }
}

#[tokio::test]
async fn addresses_aliases_and_the_shortest_ttl_are_told() {
    let server = NameServer::start(|family, _| {
        let mut records = vec![
            alias("box.preview.example.", "Edge.Preview.example.", 300),
            alias("edge.preview.example.", "host.cloud.example.", 40),
        ];
        match family {
            RecordType::A => {
                records.push(address("host.cloud.example.", "1.1.1.1", 90));
                records.push(address("host.cloud.example.", "1.1.1.2", 50));
            }
            _ => records.push(address("HOST.cloud.example.", "2606:4700::1111", 70)),
        }
        Ok(records)
    })
    .await;
    let answers = server.names().resolve("Box.preview.example").await.unwrap();
    assert_eq!(answers.v4, ["1.1.1.1", "1.1.1.2"].map(|text| text.parse::<std::net::Ipv4Addr>().unwrap()));
    assert_eq!(answers.v6, ["2606:4700::1111".parse::<std::net::Ipv6Addr>().unwrap()]);
    assert_eq!(answers.cname_chain, ["edge.preview.example", "host.cloud.example"]);
    assert_eq!(answers.ttl_seconds, 40);
}

#[tokio::test]
async fn a_second_look_up_asks_again() {
    let server = NameServer::start(|family, before| match family {
        RecordType::A => Ok(vec![address("box.example.", if before == 0 { "1.1.1.1" } else { "127.0.0.1" }, 3600)]),
        _ => Ok(Vec::new()),
    })
    .await;
    let names = server.names();
    let first = names.resolve("box.example").await.unwrap();
    let second = names.resolve("box.example").await.unwrap();
    assert_eq!((first.v4[0].to_string().as_str(), second.v4[0].to_string().as_str()), ("1.1.1.1", "127.0.0.1"));
    assert_eq!((first.ttl_seconds, first.cname_chain.len(), first.v6.len()), (3600, 0, 0));
}

#[tokio::test]
async fn aliases_that_the_server_does_not_follow_are_followed() {
    let server = NameServer::start(|family, before| match (family, before) {
        (RecordType::A, 0) => Ok(vec![alias("box.example.", "host.example.", 30)]),
        (RecordType::A, _) => Ok(vec![address("host.example.", "1.1.1.1", 60)]),
        _ => Err(ResponseCode::NXDomain),
    })
    .await;
    let answers = server.names().resolve("box.example").await.unwrap();
    assert_eq!((answers.v4.len(), answers.ttl_seconds), (1, 30));
    assert_eq!(answers.cname_chain, ["host.example"]);
}

#[tokio::test]
async fn no_address_and_half_an_answer_are_errors() {
    let none = NameServer::start(|_, _| Err(ResponseCode::NXDomain)).await;
    assert!(none.names().resolve("box.example").await.is_err());
    let empty = NameServer::start(|_, _| Ok(Vec::new())).await;
    assert!(empty.names().resolve("box.example").await.is_err());
    // What the other family would have said nobody knows.
    let half = NameServer::start(|family, _| match family {
        RecordType::A => Ok(vec![address("box.example.", "1.1.1.1", 60)]),
        _ => Err(ResponseCode::ServFail),
    })
    .await;
    assert!(half.names().resolve("box.example").await.is_err());
}

#[tokio::test]
async fn what_is_no_name_is_never_asked_about() {
    let server = NameServer::start(|_, _| Ok(vec![address("box.example.", "1.1.1.1", 60)])).await;
    let names = server.names();
    for wrong in
        ["127.0.0.1", "::1", "localhost", "box.example.", "user@box.example", "box.example%1", "b\u{fc}.example"]
    {
        assert!(names.resolve(wrong).await.is_err(), "{wrong}");
    }
    assert_eq!(server.asked.load(Ordering::SeqCst), 0);
    assert!(names.resolve("box.example").await.is_ok());
}
