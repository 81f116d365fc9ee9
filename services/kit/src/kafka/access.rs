//! Who may do what with which topic and group: Kafka's access control lists, read and written under this process's
//! certificate. librdkafka's binding knows nothing of them, so the three requests are made of the protocol's own
//! definitions (<https://kafka.apache.org/protocol>) and go over a connection of their own.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::create_acls_request::AclCreation;
use kafka_protocol::messages::delete_acls_request::DeleteAclsFilter;
use kafka_protocol::messages::{
    ApiKey, CreateAclsRequest, CreateAclsResponse, DeleteAclsRequest, DeleteAclsResponse, DescribeAclsRequest,
    DescribeAclsResponse, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes, encode_request_header_into_buffer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::broker::{BROKER, Broker};
use crate::tls::{PeerId, Tls, TlsError};

/// The longest that a broker may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// The protocol's number for "whatever it is" in a filter.
const ANY: i8 = 1;
/// Of all three requests.
const VERSION: i16 = 3;
const CLIENT: &str = "meridian-access";
/// The largest answer that is believed; the lists of a region have some kilobytes.
const LARGEST: usize = 4 << 20;

/// Why the lists could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// No certificate to speak with.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The broker cannot be reached, or is not the region's.
    #[error("the region's Kafka at {broker} cannot be reached: {cause}")]
    Unreachable {
        /// Where.
        broker: Broker,
        /// Why.
        cause: io::Error,
    },
    /// The connection ended.
    #[error("Kafka did not say who may do what: {0}")]
    Interrupted(#[from] io::Error),
    /// The broker refused: error codes of <https://kafka.apache.org/protocol#protocol_error_codes>; 31 is "not allowed".
    #[error("Kafka refused to {what}: error {code} {message}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// The protocol's number.
        code: i16,
        /// What the broker adds.
        message: String,
    },
    /// Not the protocol.
    #[error("what was said to Kafka, or its answer, is not as the protocol says: {0}")]
    NotUnderstood(String),
}

/// What something is done with.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Resource {
    /// A topic.
    Topic(String),
    /// A consumer group.
    Group(String),
    /// The cluster itself.
    Cluster,
    /// Of another kind, or named by a prefix: never planned, so always drift. Numbers are the protocol's.
    Other {
        /// Kind.
        kind: i8,
        /// How the name is to be read.
        pattern: i8,
        /// The name.
        name: String,
    },
}

/// What is done.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Operation {
    /// Consume, and commit as a group.
    Read,
    /// Produce.
    Write,
    /// Make the topic.
    Create,
    /// Add partitions.
    Alter,
    /// Delete records, or the topic.
    Delete,
    /// Ask for metadata and offsets; of the cluster, which groups and rights there are.
    Describe,
    /// Ask how it is set.
    DescribeConfigs,
    /// Never planned, so always drift; the protocol's number.
    Other(i8),
}

impl Operation {
    fn number(self) -> i8 {
        match self {
            Self::Read => 3,
            Self::Write => 4,
            Self::Create => 5,
            Self::Delete => 6,
            Self::Alter => 7,
            Self::Describe => 8,
            Self::DescribeConfigs => 10,
            Self::Other(number) => number,
        }
    }

    fn of_number(number: i8) -> Self {
        [
            Self::Read,
            Self::Write,
            Self::Create,
            Self::Delete,
            Self::Alter,
            Self::Describe,
            Self::DescribeConfigs,
        ]
        .into_iter()
        .find(|known| known.number() == number)
        .unwrap_or(Self::Other(number))
    }
}

/// One entry of the lists.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Acl {
    /// Whose, `User:training`.
    pub principal: String,
    /// From which host, `*` for any.
    pub host: String,
    /// With what.
    pub resource: Resource,
    /// What.
    pub operation: Operation,
    /// Whether it is allowed or, in an entry that somebody else made, denied.
    pub allowed: bool,
}

impl Acl {
    /// Lets a component of the region do something.
    #[must_use]
    pub fn allow(component: &str, operation: Operation, resource: Resource) -> Self {
        Self {
            principal: format!("User:{component}"),
            host: "*".to_owned(),
            resource,
            operation,
            allowed: true,
        }
    }
}

impl fmt::Display for Acl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let may = if self.allowed { "may" } else { "may not" };
        write!(
            formatter,
            "{} {may} {:?} {:?}",
            self.principal, self.operation, self.resource
        )?;
        if self.host != "*" {
            write!(formatter, " from {}", self.host)?;
        }
        Ok(())
    }
}

/// A connection that reads and writes the lists.
pub struct Access {
    stream: TlsStream<TcpStream>,
    correlation: i32,
}

impl fmt::Debug for Access {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Access").finish_non_exhaustive()
    }
}

impl Access {
    /// Connects to a broker, which has to be `meridian://<region>/kafka`.
    ///
    /// # Errors
    /// When it cannot be reached, or is not the region's.
    pub async fn connect(tls: &Tls, broker: &Broker) -> Result<Self, AccessError> {
        let mut config = tls.client_config(PeerId::new(tls.region().clone(), BROKER))?;
        // Kafka speaks its own protocol.
        config.alpn_protocols.clear();
        let connector = TlsConnector::from(Arc::new(config));
        let connecting = async {
            let name = ServerName::try_from(broker.host.clone());
            let name = name.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            let stream = TcpStream::connect((broker.host.as_str(), broker.port)).await?;
            stream.set_nodelay(true)?;
            connector.connect(name, stream).await
        };
        let connected = tokio::time::timeout(PATIENCE, connecting).await;
        let stream = connected.unwrap_or_else(|_| Err(late()));
        let stream = stream.map_err(|cause| AccessError::Unreachable {
            broker: broker.clone(),
            cause,
        })?;
        Ok(Self { stream, correlation: 0 })
    }

    /// Every entry that there is.
    ///
    /// # Errors
    /// When the broker refuses, or the connection ends.
    pub async fn list(&mut self) -> Result<BTreeSet<Acl>, AccessError> {
        let request = DescribeAclsRequest::default()
            .with_resource_type_filter(ANY)
            .with_resource_name_filter(None)
            .with_pattern_type_filter(ANY)
            .with_principal_filter(None)
            .with_host_filter(None)
            .with_operation(ANY)
            .with_permission_type(ANY);
        let answer: DescribeAclsResponse = self.ask(ApiKey::DescribeAcls, &request).await?;
        refused("list who may do what", answer.error_code, answer.error_message)?;
        let entries = answer.resources.iter().flat_map(|found| {
            let resource = Resource::numbered(found.resource_type, found.pattern_type, &found.resource_name);
            found.acls.iter().map(move |acl| Acl {
                principal: acl.principal.to_string(),
                host: acl.host.to_string(),
                resource: resource.clone(),
                operation: Operation::of_number(acl.operation),
                allowed: acl.permission_type == ALLOW,
            })
        });
        Ok(entries.collect())
    }

    /// Adds entries; one that is there already stays.
    ///
    /// # Errors
    /// When the broker refuses one, or the connection ends.
    pub async fn add<'a>(&mut self, acls: impl IntoIterator<Item = &'a Acl>) -> Result<(), AccessError> {
        let creations = acls.into_iter().map(Acl::creation).collect();
        let request = CreateAclsRequest::default().with_creations(creations);
        let answer: CreateAclsResponse = self.ask(ApiKey::CreateAcls, &request).await?;
        let mut results = answer.results.into_iter();
        results.try_for_each(|one| refused("let somebody do something", one.error_code, one.error_message))
    }

    /// Takes entries away.
    ///
    /// # Errors
    /// When the broker refuses one, or the connection ends.
    pub async fn remove<'a>(&mut self, acls: impl IntoIterator<Item = &'a Acl>) -> Result<(), AccessError> {
        const WHAT: &str = "take a right away";
        let filters = acls.into_iter().map(Acl::filter).collect();
        let request = DeleteAclsRequest::default().with_filters(filters);
        let answer: DeleteAclsResponse = self.ask(ApiKey::DeleteAcls, &request).await?;
        for result in answer.filter_results {
            refused(WHAT, result.error_code, result.error_message)?;
            for one in result.matching_acls {
                refused(WHAT, one.error_code, one.error_message)?;
            }
        }
        Ok(())
    }

    async fn ask<A: Decodable + HeaderVersion>(
        &mut self,
        key: ApiKey,
        question: &impl Encodable,
    ) -> Result<A, AccessError> {
        self.correlation = self.correlation.wrapping_add(1);
        let header = RequestHeader::default()
            .with_request_api_key(key as i16)
            .with_request_api_version(VERSION)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(StrBytes::from_static_str(CLIENT)));
        let mut request = BytesMut::new();
        encode_request_header_into_buffer(&mut request, &header).map_err(not_understood)?;
        question.encode(&mut request, VERSION).map_err(not_understood)?;
        let asked = tokio::time::timeout(PATIENCE, self.exchange(&request)).await;
        let mut answer = asked.unwrap_or_else(|_| Err(late()))?;
        let header = ResponseHeader::decode(&mut answer, A::header_version(VERSION)).map_err(not_understood)?;
        if header.correlation_id != self.correlation {
            return Err(AccessError::NotUnderstood("it answers another question".to_owned()));
        }
        A::decode(&mut answer, VERSION).map_err(not_understood)
    }

    /// One frame there, and one back: each is preceded by its length.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<Bytes> {
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        self.stream.write_u32(length).await?;
        self.stream.write_all(request).await?;
        self.stream.flush().await?;
        let length = usize::try_from(self.stream.read_u32().await?).map_err(io::Error::other)?;
        if length > LARGEST {
            return Err(io::Error::other("the answer is larger than any should be"));
        }
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).await?;
        Ok(answer.into())
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the broker did not answer in time")
}

fn not_understood(error: impl fmt::Display) -> AccessError {
    AccessError::NotUnderstood(error.to_string())
}

fn refused(what: &'static str, code: i16, message: Option<StrBytes>) -> Result<(), AccessError> {
    if code == 0 {
        return Ok(());
    }
    Err(AccessError::Refused {
        what,
        code,
        message: message.as_deref().unwrap_or_default().to_owned(),
    })
}

const TOPIC: i8 = 2;
const GROUP: i8 = 3;
const CLUSTER: i8 = 4;
/// How Kafka calls the cluster among resources.
const CLUSTER_NAME: &str = "kafka-cluster";
const LITERAL: i8 = 3;
const DENY: i8 = 2;
const ALLOW: i8 = 3;

impl Resource {
    fn numbered(kind: i8, pattern: i8, name: &str) -> Self {
        let name = name.to_owned();
        match (kind, pattern) {
            (TOPIC, LITERAL) => Self::Topic(name),
            (GROUP, LITERAL) => Self::Group(name),
            (CLUSTER, LITERAL) if name == CLUSTER_NAME => Self::Cluster,
            _ => Self::Other { kind, pattern, name },
        }
    }

    /// Kind, pattern and name.
    fn numbers(&self) -> (i8, i8, StrBytes) {
        let (kind, pattern, name) = match self {
            Self::Topic(name) => (TOPIC, LITERAL, name.as_str()),
            Self::Group(name) => (GROUP, LITERAL, name.as_str()),
            Self::Cluster => (CLUSTER, LITERAL, CLUSTER_NAME),
            Self::Other { kind, pattern, name } => (*kind, *pattern, name.as_str()),
        };
        (kind, pattern, StrBytes::from_string(name.to_owned()))
    }
}

impl Acl {
    const fn permission(&self) -> i8 {
        if self.allowed { ALLOW } else { DENY }
    }

    fn creation(&self) -> AclCreation {
        let (kind, pattern, name) = self.resource.numbers();
        AclCreation::default()
            .with_resource_type(kind)
            .with_resource_name(name)
            .with_resource_pattern_type(pattern)
            .with_principal(StrBytes::from_string(self.principal.clone()))
            .with_host(StrBytes::from_string(self.host.clone()))
            .with_operation(self.operation.number())
            .with_permission_type(self.permission())
    }

    /// Finds exactly this entry.
    fn filter(&self) -> DeleteAclsFilter {
        let (kind, pattern, name) = self.resource.numbers();
        DeleteAclsFilter::default()
            .with_resource_type_filter(kind)
            .with_resource_name_filter(Some(name))
            .with_pattern_type_filter(pattern)
            .with_principal_filter(Some(StrBytes::from_string(self.principal.clone())))
            .with_host_filter(Some(StrBytes::from_string(self.host.clone())))
            .with_operation(self.operation.number())
            .with_permission_type(self.permission())
    }
}
