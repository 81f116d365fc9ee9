//! `meridian operator`: the two roles.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use meridian_operator::hub::approval::Requirement;
use meridian_operator::region::stack::data_plane::Operators;
use meridian_operator::region::stack::validate::{Images, NodePorts};
use meridian_operator::{HubArgs, RegionArgs, admin, run_hub, run_region};
use meridian_policy::RegionName;

/// Which role, or what is asked of one that runs.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Compiles the policy and writes each region's desired state.
    Hub(Hub),
    /// Lays one region down in this cluster.
    Region(Region),
    /// Waits until a running operator says that it is ready (`helm test`).
    Ready(Ready),
}

/// Whom to ask, and for how long.
#[derive(Args, Debug)]
pub(crate) struct Ready {
    /// Where it says so.
    #[arg(long, default_value = "http://meridian-operator:9000/readyz")]
    url: String,
    /// How long to wait for it.
    #[arg(long, default_value_t = 60)]
    within_seconds: u64,
}

/// What both roles are told.
#[derive(Args, Debug)]
struct Replica {
    /// The operator's own namespace.
    #[arg(long, env = "POD_NAMESPACE", default_value = "meridian-system")]
    namespace: String,
    /// This replica's name, for the election.
    #[arg(long, env = "POD_NAME", default_value = "meridian-operator")]
    identity: String,
    /// Where health and metrics are served.
    #[arg(long, env = "MERIDIAN_ADMIN_LISTEN", default_value = "0.0.0.0:9000")]
    admin_listen: SocketAddr,
}

/// What the hub role is told.
#[derive(Args, Debug)]
pub(crate) struct Hub {
    #[command(flatten)]
    replica: Replica,
    /// Where the API server asks for admission.
    #[arg(long, env = "MERIDIAN_WEBHOOK_LISTEN", default_value = "0.0.0.0:9443")]
    webhook_listen: SocketAddr,
    /// Whether what widens the policy waits for another person's approval.
    #[arg(long, env = "MERIDIAN_APPROVAL", value_enum, default_value_t = Approval::Required)]
    approval: Approval,
}

/// Whether what widens the policy waits for another person, in the words of the chart.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Approval {
    /// It does.
    Required,
    /// What is written is in force.
    NotRequired,
}

impl From<Approval> for Requirement {
    fn from(approval: Approval) -> Self {
        match approval {
            Approval::Required => Self::Required,
            Approval::NotRequired => Self::NotRequired,
        }
    }
}

/// What the region role is told.
#[derive(Args, Debug)]
pub(crate) struct Region {
    #[command(flatten)]
    replica: Replica,
    /// The one region of this cluster; without it, the first RegionStack decides.
    #[arg(long, env = "MERIDIAN_REGION")]
    region: Option<RegionName>,
    /// The image of the services: the one that this binary is in.
    #[arg(long, env = "MERIDIAN_IMAGE")]
    image: String,
    /// The image of PostgreSQL.
    #[arg(long, env = "MERIDIAN_POSTGRES_IMAGE")]
    postgres_image: String,
    /// The image of Kafka.
    #[arg(long, env = "MERIDIAN_KAFKA_IMAGE")]
    kafka_image: String,
    /// CloudNativePG is in this cluster, and may be asked for PostgreSQL.
    #[arg(long, env = "MERIDIAN_CLOUD_NATIVE_PG")]
    cloud_native_pg: bool,
    /// Strimzi is in this cluster, and may be asked for Kafka.
    #[arg(long, env = "MERIDIAN_STRIMZI")]
    strimzi: bool,
    /// Where services hear the policy.
    #[arg(long, env = "MERIDIAN_FEED_LISTEN", default_value = "0.0.0.0:8444")]
    feed_listen: SocketAddr,
    /// Where the API server asks for external metrics; without it, no HorizontalPodAutoscaler is told anything.
    #[arg(long, env = "MERIDIAN_METRICS_API_LISTEN")]
    metrics_api_listen: Option<SocketAddr>,
    /// A folder on a memory volume for this process's certificate.
    #[arg(long, env = "MERIDIAN_SCRATCH", default_value = "/tmp")]
    scratch: PathBuf,
    /// Kafka's brokers, when the region's own cannot be reached from here.
    #[arg(long, env = "MERIDIAN_BROKERS")]
    brokers: Option<String>,
}

pub(crate) async fn run(role: Role) -> Result<(), String> {
    match &role {
        Role::Hub(_) => begin("operator-hub", None)?,
        Role::Region(role) => begin("operator-region", role.region.as_ref())?,
        Role::Ready(_) => {}
    }
    match role {
        Role::Ready(Ready { url, within_seconds }) => {
            admin::wait_until_ready(&url, Duration::from_secs(within_seconds)).await
        }
        Role::Hub(Hub {
            replica,
            webhook_listen,
            approval,
        }) => {
            let Replica {
                namespace,
                identity,
                admin_listen,
            } = replica;
            let args = HubArgs {
                namespace,
                identity,
                webhook_listen,
                admin_listen,
                approval: approval.into(),
            };
            run_hub(args).await.map_err(|error| error.to_string())
        }
        Role::Region(region) => {
            let Region {
                replica,
                region,
                image,
                postgres_image,
                kafka_image,
                cloud_native_pg,
                strimzi,
                feed_listen,
                metrics_api_listen,
                scratch,
                brokers,
            } = region;
            let Replica {
                namespace,
                identity,
                admin_listen,
            } = replica;
            let images = Images {
                meridian: image,
                postgres: postgres_image,
                kafka: kafka_image,
            };
            let args = RegionArgs {
                namespace,
                identity,
                region,
                images,
                operators: Operators {
                    cloud_native_pg,
                    strimzi,
                },
                node_ports: NodePorts::Fixed,
                feed_listen: Some(feed_listen),
                metrics_api_listen,
                admin_listen,
                scratch,
                brokers,
            };
            run_region(args).await.map_err(|error| error.to_string())
        }
    }
}

/// Where traces go, if anywhere: OpenTelemetry's own variable.
const COLLECTOR: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

fn begin(name: &'static str, region: Option<&RegionName>) -> Result<(), String> {
    let collector = std::env::var(COLLECTOR).ok().filter(|endpoint| !endpoint.is_empty());
    let region = region.map(RegionName::as_str).unwrap_or_default();
    meridian_kit::log::install(name, region, collector.as_deref()).map_err(|error| error.to_string())?;
    meridian_kit::tls::install_crypto_provider();
    Ok(())
}
