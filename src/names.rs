//! Names of upstreams, looked up in the DNS (contract section 5, upstream). Every look-up really asks: what its answer
//! is worth later is for the pin to say, so nothing is kept here, and no hosts file has a word in it.

use std::net::SocketAddr;
use std::time::Duration;

use async_trait::async_trait;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::{ResolverBuilder, TokioResolver};
use runwarden_actors::ports::{NameAnswers, Names, ResolveError};
use tokio::time::timeout;

/// Time for a whole look-up, both address families.
const WITHIN: Duration = Duration::from_secs(5);
/// Time for one attempt at one server, so that there is time for another.
const ATTEMPT_WITHIN: Duration = Duration::from_secs(2);
/// Attempts after the first.
const RETRIES: usize = 1;
/// Longest name, as text without a trailing dot.
const NAME_MAX_BYTES: usize = 253;
/// Longest label.
const LABEL_MAX_BYTES: usize = 63;
/// Names that one answer may lead through.
const CHAIN_MAX: usize = 16;

/// The port on the machine's name servers, or on given ones.
pub struct DnsNames {
    resolver: TokioResolver,
}

impl std::fmt::Debug for DnsNames {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsNames").finish_non_exhaustive()
    }
}

impl DnsNames {
    /// Asks the name servers of the machine's own configuration, read now.
    pub fn from_system() -> Result<Self, ResolveError> {
        Self::build(TokioResolver::builder_tokio().map_err(|error| ResolveError(error.to_string()))?)
    }

    /// Asks these name servers, over UDP and, for what is too long for it, TCP.
    pub fn with_servers(servers: &[SocketAddr]) -> Result<Self, ResolveError> {
        let servers = servers.iter().map(|server| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
            NameServerConfig::new(server.ip(), true, connections.into())
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        Self::build(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
    }

    fn build(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<Self, ResolveError> {
        let options: &mut ResolverOpts = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.timeout = ATTEMPT_WITHIN;
        options.attempts = RETRIES;
        let resolver = builder.build().map_err(|error| ResolveError(error.to_string()))?;
        Ok(Self { resolver })
    }

    /// The records of one family; none is an answer, whatever else goes wrong is not.
    async fn ask(&self, name: &Name, record_type: RecordType) -> Result<Vec<Record>, ResolveError> {
        match self.resolver.lookup(name.clone(), record_type).await {
            Ok(lookup) => Ok(lookup.answers().to_vec()),
            Err(NetError::Dns(DnsError::NoRecordsFound(none)))
                if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
            {
                Ok(Vec::new())
            }
            Err(error) => Err(ResolveError(error.to_string())),
        }
    }
}

#[async_trait]
impl Names for DnsNames {
    #[tracing::instrument(name = "names.resolve", skip_all)]
    async fn resolve(&self, host: &str) -> Result<NameAnswers, ResolveError> {
        if !is_host_name(host) {
            return Err(ResolveError("it is not the full name of a host".to_owned()));
        }
        let host = host.to_ascii_lowercase();
        // With its trailing dot no search list is tried.
        let name = Name::from_ascii(format!("{host}.")).map_err(|error| ResolveError(error.to_string()))?;
        let both = async { tokio::try_join!(self.ask(&name, RecordType::A), self.ask(&name, RecordType::AAAA)) };
        let (v4, v6) = timeout(WITHIN, both)
            .await
            .map_err(|_| ResolveError(format!("no answer within {} ms", WITHIN.as_millis())))??;
        let answers = merge(follow(&host, &v4)?, follow(&host, &v6)?);
        if answers.v4.is_empty() && answers.v6.is_empty() {
            return Err(ResolveError("it has no address".to_owned()));
        }
        Ok(answers)
    }
}

/// Whether it can be asked about: dots between labels of letters, digits, `-` and `_`, at least two of them, and no
/// spelling of an address. A last label that is a number is one, whatever stands before it.
fn is_host_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=LABEL_MAX_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let Some((_, last)) = host.rsplit_once('.') else { return false };
    let hex = |digits: &str| digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = last.bytes().all(|byte| byte.is_ascii_digit())
        || last.strip_prefix("0x").or_else(|| last.strip_prefix("0X")).is_some_and(hex);
    host.len() <= NAME_MAX_BYTES && !number && host.split('.').all(label)
}

fn text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

/// Walks from the name that was asked about along its aliases to the addresses. Records of any other name are not an
/// answer to the question.
fn follow(host: &str, records: &[Record]) -> Result<NameAnswers, ResolveError> {
    let mut answers = NameAnswers { ttl_seconds: u32::MAX, ..NameAnswers::default() };
    let mut at = host.to_owned();
    while let Some((ttl, next)) = records.iter().find_map(|record| match &record.data {
        RData::CNAME(next) if text(&record.name) == at => Some((record.ttl, text(&next.0))),
        _ => None,
    }) {
        if answers.cname_chain.len() >= CHAIN_MAX || next == host || answers.cname_chain.contains(&next) {
            return Err(ResolveError("its aliases have no end".to_owned()));
        }
        answers.ttl_seconds = answers.ttl_seconds.min(ttl);
        answers.cname_chain.push(next.clone());
        at = next;
    }
    for record in records.iter().filter(|record| text(&record.name) == at) {
        match &record.data {
            RData::A(address) => answers.v4.push(address.0),
            RData::AAAA(address) => answers.v6.push(address.0),
            _ => continue,
        }
        answers.ttl_seconds = answers.ttl_seconds.min(record.ttl);
    }
    Ok(answers)
}

/// One answer of both families. Addresses that hang on another alias than the one that is reported are left out:
/// who holds a session to its aliases must not be given addresses from elsewhere.
fn merge(v4: NameAnswers, v6: NameAnswers) -> NameAnswers {
    match (v4.v4.is_empty(), v6.v6.is_empty()) {
        (_, true) => v4,
        (true, false) => v6,
        (false, false) if v4.cname_chain.last() != v6.cname_chain.last() => v4,
        (false, false) => NameAnswers { ttl_seconds: v4.ttl_seconds.min(v6.ttl_seconds), v6: v6.v6, ..v4 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_full_names_of_hosts_are_asked_about() {
        let longest = format!("{}.{}.{}.{}", "a".repeat(63), "b".repeat(63), "c".repeat(63), "d".repeat(61));
        for fine in ["a.b", "5173-box.preview.example", "_x.EXAMPLE.com", "xn--bcher-kva.example", longest.as_str()] {
            assert!(is_host_name(fine), "{fine}");
        }
        let (long_label, too_long) = (format!("{}.example", "a".repeat(64)), format!("{longest}d"));
        for wrong in [
            "",
            ".",
            "localhost",
            "metadata",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "box.0x7f000001",
            "0x7f.0x1",
            "::1",
            "[::1]",
            "fe80::1%eth0",
            "box.example%eth0",
            "user@box.example",
            "user:pw@box.example",
            "box.example.",
            ".box.example",
            "box..example",
            "box.example:80",
            "bücher.example",
            "box .example",
            "box.example\n",
            "box\0.example",
            long_label.as_str(),
            too_long.as_str(),
        ] {
            assert!(!is_host_name(wrong), "{wrong:?}");
        }
    }

    fn record(name: &str, data: RData, ttl: u32) -> Record {
        Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, data)
    }

    fn alias(name: &str, to: &str) -> Record {
        use hickory_resolver::proto::rr::rdata::CNAME;
        record(name, RData::CNAME(CNAME(Name::from_ascii(to).unwrap())), 60)
    }

    fn address(name: &str, last: u8) -> Record {
        record(name, RData::A(std::net::Ipv4Addr::new(1, 1, 1, last).into()), 60)
    }

    #[test]
    fn records_of_other_names_are_no_answer() {
        let records = [address("evil.example.", 9), alias("A.example.", "B.example."), address("b.example.", 1)];
        let answers = follow("a.example", &records).unwrap();
        assert_eq!((answers.v4.len(), answers.cname_chain), (1, vec!["b.example".to_owned()]));
        assert!(follow("c.example", &records).unwrap().v4.is_empty());
    }

    #[test]
    fn aliases_that_lead_in_a_circle_are_refused() {
        let circle = [alias("a.example.", "b.example."), alias("b.example.", "a.example.")];
        assert!(follow("a.example", &circle).is_err());
        assert!(follow("a.example", &[alias("a.example.", "a.example.")]).is_err());
        let inner =
            [alias("a.example.", "b.example."), alias("b.example.", "c.example."), alias("c.example.", "b.example.")];
        assert!(follow("a.example", &inner).is_err());
        let endless: Vec<_> =
            (0..40).map(|step| alias(&format!("n{step}.example."), &format!("n{}.example.", step + 1))).collect();
        assert!(follow("n0.example", &endless).is_err());
    }

    #[test]
    fn addresses_of_another_alias_are_left_out() {
        let with = |v4: &[&str], v6: &[&str], chain: &str, ttl_seconds| NameAnswers {
            v4: v4.iter().map(|text| text.parse().unwrap()).collect(),
            v6: v6.iter().map(|text| text.parse().unwrap()).collect(),
            cname_chain: vec![chain.to_owned()],
            ttl_seconds,
        };
        let v4 = with(&["1.1.1.1"], &[], "one", 60);
        assert_eq!(merge(v4.clone(), with(&[], &["2606:4700::1"], "two", 5)), v4);
        let same = merge(v4.clone(), with(&[], &["2606:4700::1"], "one", 5));
        assert_eq!(same, with(&["1.1.1.1"], &["2606:4700::1"], "one", 5));
        let only = with(&[], &["2606:4700::1"], "two", 5);
        assert_eq!(merge(NameAnswers::default(), only.clone()), only);
        assert_eq!(merge(v4.clone(), NameAnswers::default()), v4);
    }
}
