//! Names of upstreams.

use std::net::{Ipv4Addr, Ipv6Addr};

use async_trait::async_trait;
use thiserror::Error;

/// A name could not be resolved. Callers deny.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the name could not be resolved: {0}")]
pub struct ResolveError(pub String);

/// What a name's look-up answered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NameAnswers {
    /// A records.
    pub v4: Vec<Ipv4Addr>,
    /// AAAA records.
    pub v6: Vec<Ipv6Addr>,
    /// The names that CNAME records led through, in order, without a trailing dot, lower case.
    pub cname_chain: Vec<String>,
    /// The shortest TTL of all records, in seconds.
    pub ttl_seconds: u32,
}

/// A resolver.
#[async_trait]
pub trait Names: Send + Sync {
    /// Resolves a host name. No answer at all is an error.
    async fn resolve(&self, host: &str) -> Result<NameAnswers, ResolveError>;
}
