//! `meridian kubectl`, and the same under the name `kubectl-meridian`: the plugin `kubectl meridian`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use meridian_operator::plugin::approve;
use meridian_operator::plugin::explain::Asked;
use meridian_operator::plugin::reach::Reach;
use meridian_operator::plugin::status::Wanted;
use meridian_operator::plugin::what_if::Asked as Supposed;
use meridian_operator::plugin::{self, Answer, Output, PluginError, REFUSED};

/// The name under which kubectl finds its plugin.
const PLUGIN: &str = "kubectl-meridian";

/// The command line under that name.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl meridian",
    bin_name = "kubectl meridian",
    version,
    propagate_version = true
)]
pub(crate) struct Plugin {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What is asked of a hub.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Is everything Ready, every policy fresh, nothing violated? Exits with 1 when something is not.
    Status(Status),
    /// What was found where it must not be, and whom the laws concerned want to be told by when. Exits with 1 when an
    /// incident is open.
    Incidents(Incidents),
    /// May data of this class go from here to there? Every check, or the first that refuses. Exits with 1 when refused.
    Explain(Explain),
    /// What would change if these files were applied, cluster by cluster, and what makes it lawful. Writes nothing. Exits
    /// with 0 when nothing would change, 2 when something would, 1 when something is refused or could not be found out.
    Plan(Plan),
    /// What would close or open if a ground of the policy fell away, by what article, and what waits there? Writes nothing.
    /// Exits with 0 when no edge would change, 2 when one would.
    WhatIf(WhatIf),
    /// What would a change open that waits for another person, and with --digest: approve it. Exits with 0 when nothing waits
    /// (any more), 2 when something does, 1 when the approval is refused.
    Approve(Approve),
}

#[derive(Args, Debug)]
pub(crate) struct Approve {
    /// jurisdiction, party, fitnessregion or tenantdataresidency, or its short name.
    kind: String,
    /// The name of the resource.
    name: String,
    /// Approve the change with this digest, as the first call without it says.
    #[arg(long, value_name = "SHA256")]
    digest: Option<String>,
    #[command(flatten)]
    hub: Hub,
}

#[derive(Args, Debug)]
pub(crate) struct Status {
    /// List the edges that close within so many days.
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    within: u32,
    /// Do not look at the members: what the hub says is enough.
    #[arg(long)]
    hub_only: bool,
    #[command(flatten)]
    hub: Hub,
}

#[derive(Args, Debug)]
pub(crate) struct Incidents {
    /// List those that are closed, too.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    hub: Hub,
}

#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// Whose data: the name of a TenantDataResidency.
    tenant: String,
    /// A class of data, for example workout-summary.
    class: String,
    /// The region that it leaves from.
    from: String,
    /// The region that it goes to.
    to: String,
    #[command(flatten)]
    hub: Hub,
}

#[derive(Args, Debug)]
pub(crate) struct Plan {
    /// Files, folders, or - for standard input; in the order in which they would be applied.
    #[arg(short, long = "filename", value_name = "FILE", required = true, num_args = 1..)]
    filenames: Vec<PathBuf>,
    #[command(flatten)]
    hub: Hub,
}

#[derive(Args, Debug)]
pub(crate) struct WhatIf {
    /// A mechanism between two jurisdictions is annulled, for example eu:us:Adequacy; FROM may be *.
    #[arg(long, value_name = "FROM:TO[:MECHANISM[:INSTRUMENT]]")]
    annul: Vec<String>,
    /// A party loses a certification, or all of them.
    #[arg(long, value_name = "PARTY[:INSTRUMENT]")]
    loses: Vec<String>,
    /// An instrument (decision, clauses, contract, scheme) ends on a date, for example "SCC 2021/914 module 1=2027-06-30".
    #[arg(long, value_name = "INSTRUMENT=DATE")]
    expires: Vec<String>,
    /// Time passes until then, and nobody prolongs anything.
    #[arg(long, value_name = "DATE")]
    as_of: Option<String>,
    /// Hypotheses in YAML or JSON, or - for standard input: see policies/README.md.
    #[arg(short, long = "filename", value_name = "FILE")]
    filename: Option<PathBuf>,
    /// Do not ask the members what waits.
    #[arg(long)]
    hub_only: bool,
    #[command(flatten)]
    hub: Hub,
}

/// Where the hub is, and how its members are reached.
#[derive(Args, Debug)]
struct Hub {
    /// The kubeconfig; otherwise KUBECONFIG, otherwise that of the home folder.
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// The hub's context; otherwise the current one.
    #[arg(long)]
    context: Option<String>,
    /// The operator's namespace, on the hub and in the members.
    #[arg(short, long, default_value = "meridian-system")]
    namespace: String,
    /// Look at this member by a context of your own, not by the kubeconfig that the hub has for it.
    #[arg(long = "member", value_name = "CLUSTER=CONTEXT", value_parser = member)]
    members: Vec<(String, String)>,
    /// For people or for machines.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Aligned tables.
    Table,
    /// One JSON document.
    Json,
}

fn member(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((cluster, context)) if !cluster.is_empty() && !context.is_empty() => {
            Ok((cluster.to_owned(), context.to_owned()))
        }
        _ => Err("write CLUSTER=CONTEXT, for example eu=kind-eu".to_owned()),
    }
}

impl Hub {
    fn reach(self) -> (Reach, Output) {
        let output = match self.output {
            Format::Table => Output::Table,
            Format::Json => Output::Json,
        };
        let reach = Reach {
            kubeconfig: self.kubeconfig,
            context: self.context,
            namespace: self.namespace,
            members: self.members.into_iter().collect::<BTreeMap<_, _>>(),
        };
        (reach, output)
    }
}

/// Whether the program was called under the plugin's name.
pub(crate) fn is_called(program: Option<&OsStr>) -> bool {
    program.and_then(|path| Path::new(path).file_stem()) == Some(OsStr::new(PLUGIN))
}

/// A wrong command line is an error of the verb's own: clap's usual 2 would say that a plan changes something.
pub(crate) fn refuse(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the terminal is gone.
    let _ = error.print();
    if error.use_stderr() {
        ExitCode::from(REFUSED)
    } else {
        ExitCode::SUCCESS
    }
}

/// Runs a verb and prints its answer.
pub(crate) async fn run(verb: Verb) -> Result<ExitCode, String> {
    meridian_kit::tls::install_crypto_provider();
    let Answer { text, code } = answer(verb).await.map_err(|error| error.to_string())?;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // A reader that has seen enough (`| head`) is no failure.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(format!("the answer cannot be written: {error}"))
        }
        _ => Ok(ExitCode::from(code)),
    }
}

async fn answer(verb: Verb) -> Result<Answer, PluginError> {
    match verb {
        Verb::Status(Status { within, hub_only, hub }) => {
            let (reach, output) = hub.reach();
            let wanted = Wanted {
                within_days: within,
                hub_only,
            };
            plugin::status(&reach, wanted, output).await
        }
        Verb::Incidents(Incidents { all, hub }) => {
            let (reach, output) = hub.reach();
            plugin::incidents(&reach, all, output).await
        }
        Verb::Explain(Explain {
            tenant,
            class,
            from,
            to,
            hub,
        }) => {
            let (reach, output) = hub.reach();
            let asked = Asked {
                tenant,
                class,
                from,
                to,
            };
            plugin::explain(&reach, &asked, output).await
        }
        Verb::WhatIf(WhatIf {
            annul,
            loses,
            expires,
            as_of,
            filename,
            hub_only,
            hub,
        }) => {
            let (reach, output) = hub.reach();
            let file = filename.as_deref().map(plugin::what_if::read).transpose()?;
            let asked = Supposed {
                annul,
                loses,
                expires,
                as_of,
                file,
            };
            plugin::what_if(&reach, &asked, hub_only, output).await
        }
        Verb::Plan(Plan { filenames, hub }) => {
            let (reach, output) = hub.reach();
            plugin::plan(&reach, &filenames, output).await
        }
        Verb::Approve(Approve {
            kind,
            name,
            digest,
            hub,
        }) => {
            let (reach, output) = hub.reach();
            let asked = approve::Asked { kind, name, digest };
            plugin::approve(&reach, &asked, output).await
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_plugins_command_line_is_sound() {
        Plugin::command().debug_assert();
    }

    #[test]
    fn the_program_is_the_plugin_under_the_plugins_name_only() {
        for (path, plugin) in [
            ("kubectl-meridian", true),
            ("/usr/local/bin/kubectl-meridian", true),
            ("kubectl-meridian.exe", true),
            ("/usr/local/bin/meridian", false),
            ("kubectl", false),
        ] {
            assert_eq!(is_called(Some(OsStr::new(path))), plugin, "{path}");
        }
        assert!(!is_called(None));
    }

    #[test]
    fn a_member_is_named_with_its_context() {
        assert_eq!(member("eu=kind-eu"), Ok(("eu".to_owned(), "kind-eu".to_owned())));
        for wrong in ["eu", "=kind-eu", "eu="] {
            assert!(member(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_plan_needs_a_file_and_takes_several() {
        assert!(Plugin::try_parse_from(["kubectl meridian", "plan"]).is_err());
        let parsed = Plugin::try_parse_from([
            "kubectl meridian",
            "plan",
            "-f",
            "a.yaml",
            "b.yaml",
            "-f",
            "-",
            "-o",
            "json",
        ]);
        let Ok(Plugin { verb: Verb::Plan(plan) }) = parsed else {
            unreachable!("{parsed:?}")
        };
        assert_eq!(plan.filenames, ["a.yaml", "b.yaml", "-"].map(PathBuf::from));
    }
}
