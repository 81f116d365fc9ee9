//! `meridian evidence`: export in the region, verify and report anywhere.

mod incident;
mod report;

use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jiff::Timestamp;
use meridian_evidence::export::Writer;
use meridian_evidence::report::Observed;
use meridian_evidence::verify::{VerifiedChain, missing, verify_part};
use meridian_evidence::{ChainId, Checkpoint, Entry, Verified};
use meridian_kit::db;
use meridian_operator::policy_form;
use meridian_policy::RegionPolicy;
use report::Form;
use serde_json::Value;

/// What to do with evidence.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Writes the chains of a region's services to standard output.
    Export(Export),
    /// Checks an export, offline. Fails with what is wrong and at which entry.
    Verify(Verify),
    /// Reads records of processing, or the register of transfers, out of an export, and fails when what was observed is not
    /// what was declared.
    Report(Report),
}

/// Whose chains.
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// The region.
    #[arg(long, env = "MERIDIAN_REGION")]
    region: String,
    /// A service, with the file that holds its database's URL; without a file the URL is MERIDIAN_DATABASE_URL.
    #[arg(value_name = "SERVICE[=FILE]", required = true)]
    services: Vec<String>,
}

/// What to check, and against what.
#[derive(Args, Debug)]
pub(crate) struct Verify {
    /// The export, in one file or one for each service.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Checkpoints that were kept elsewhere: one, a list, or a FitnessRegion as `kubectl get -o json` shows it.
    #[arg(long = "checkpoint", value_name = "FILE")]
    checkpoints: Vec<PathBuf>,
    /// An Ed25519 public key that may have signed, in hexadecimal digits; with any, no other may.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
}

/// Which report of which export, held against which policy.
#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("form").required(true).args(["art30", "transfers"])))]
pub(crate) struct Report {
    #[command(flatten)]
    export: Verify,
    /// Records of processing (GDPR Art 30).
    #[arg(long)]
    art30: bool,
    /// The register of transfers (GDPR chapter V).
    #[arg(long)]
    transfers: bool,
    /// What was declared: the region's policy, or its RegionStack as `kubectl get -o json` shows it.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Where to write the PrivacyIncidents that differences ask for, for `kubectl create -f`; not written where there are none.
    #[arg(long, value_name = "FILE")]
    incidents: Option<PathBuf>,
    /// Everything, as JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(verb: Verb) -> Result<(), String> {
    match verb {
        Verb::Export(asked) => export(&asked).await,
        Verb::Verify(asked) => {
            let verified = verify_files(&asked, |_, _, _| {})?;
            tell(&verified).map_err(|error| format!("the outcome cannot be written: {error}"))
        }
        Verb::Report(asked) => tell_report(&asked),
    }
}

fn tell_report(asked: &Report) -> Result<(), String> {
    let policy = match &asked.policy {
        Some(path) => Some(policy_in(path, &read(path)?)?),
        None => None,
    };
    let mut observed = Observed::default();
    let verified = verify_files(&asked.export, |chain, seq, entry| observed.see(chain, seq, entry))?;
    let report = observed.report(&verified.region, policy.as_ref());
    let form = if asked.art30 { Form::Art30 } else { Form::Transfers };
    let mut out = io::stdout().lock();
    let written = if asked.json {
        serde_json::to_writer_pretty(&mut out, &report)
            .map_err(io::Error::from)
            .and_then(|()| writeln!(out))
    } else {
        report::write(&mut out, &report, form)
    };
    written.map_err(|error| format!("the report cannot be written: {error}"))?;
    match report.violations.len() {
        0 => Ok(()),
        count => {
            if let Some(path) = &asked.incidents {
                let manifests = incident::manifests(&report, Timestamp::now());
                std::fs::write(path, format!("{manifests:#}\n"))
                    .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
            }
            Err(format!(
                "{count} violations: what was observed is not what was declared"
            ))
        }
    }
}

/// The policy in a file: itself, or in the spec of a RegionStack.
fn policy_in(path: &Path, text: &str) -> Result<RegionPolicy, String> {
    let wrong = |error: &dyn Display| format!("{} holds no policy of a region: {error}", path.display());
    let mut value: Value = serde_json::from_str(text).map_err(|error| wrong(&error))?;
    if let Some(policy) = value.pointer_mut("/spec/policy") {
        value = policy.take();
    }
    policy_form::read(&value).map_err(|error| wrong(&error))
}

async fn export(asked: &Export) -> Result<(), String> {
    let unwritten = |error: io::Error| format!("the export cannot be written: {error}");
    let mut writer = Writer::begin(BufWriter::new(io::stdout()), &asked.region, Timestamp::now()).map_err(unwritten)?;
    for service in &asked.services {
        let (service, url) = match service.split_once('=') {
            Some((service, file)) => (service, read(Path::new(file))?),
            None => {
                let url = std::env::var("MERIDIAN_DATABASE_URL");
                let missing = |_| format!("{service}: name the file with its database's URL, as {service}=FILE");
                (service.as_str(), url.map_err(missing)?)
            }
        };
        let chain = format!("{}/{service}", asked.region)
            .parse::<ChainId>()
            .map_err(|error| format!("{service}: {error}"))?;
        let pool = db::connect(url.trim(), "meridian-evidence").map_err(|error| error.to_string())?;
        meridian_kit::evidence::export(&pool, &chain, &mut writer)
            .await
            .map_err(|error| format!("{chain}: {error}"))?;
    }
    writer.end().map(drop).map_err(unwritten)
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{} cannot be read: {error}", path.display()))
}

fn verify_files(asked: &Verify, mut each: impl FnMut(&ChainId, u64, &Entry)) -> Result<Verified, String> {
    let mut kept = Vec::new();
    for path in &asked.checkpoints {
        kept.extend(checkpoints_in(path, &read(path)?)?);
    }
    let mut all = Verified::default();
    for path in &asked.files {
        let shown = path.display();
        let file = File::open(path).map_err(|error| format!("{shown} cannot be read: {error}"))?;
        let part = verify_part(BufReader::new(file), &kept, &mut each);
        let part = part.map_err(|rejected| format!("{shown}: {rejected}"))?;
        if !all.chains.is_empty() && all.region != part.region {
            return Err(format!(
                "{shown}: it is an export of {}, and the others are of {}",
                part.region, all.region
            ));
        }
        let is_known = |chain: &VerifiedChain| all.chains.iter().any(|known| known.chain == chain.chain);
        if let Some(twice) = part.chains.iter().find(|chain| is_known(chain)) {
            return Err(format!("{shown}: {} is in another file too", twice.chain));
        }
        all.region = part.region;
        all.chains.extend(part.chains);
    }
    if let Some(why) = missing(&kept, &all.chains) {
        return Err(why.to_string());
    }
    if !asked.keys.is_empty() {
        signed_by(&asked.keys, &all.chains)?;
    }
    Ok(all)
}

fn signed_by(keys: &[String], chains: &[VerifiedChain]) -> Result<(), String> {
    for chain in chains {
        let found = chain
            .key
            .map_or_else(|| "nobody".to_owned(), |found| hex::encode(found.0));
        if !keys.contains(&found) {
            return Err(format!(
                "{} is signed by {found}, and by none of the keys named",
                chain.chain
            ));
        }
    }
    Ok(())
}

/// The checkpoints in a file: one, a list, or those in the status of a resource.
fn checkpoints_in(path: &Path, text: &str) -> Result<Vec<Checkpoint>, String> {
    let wrong = |error: serde_json::Error| format!("{} holds no checkpoints: {error}", path.display());
    let mut value: Value = serde_json::from_str(text).map_err(wrong)?;
    if let Some(told) = value.pointer_mut("/status/evidence") {
        value = told.take();
    }
    let list = if value.is_array() {
        value
    } else {
        Value::Array(vec![value])
    };
    serde_json::from_value(list).map_err(wrong)
}

fn tell(verified: &Verified) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "region {}: the export is whole", verified.region)?;
    for chain in &verified.chains {
        write!(out, "{}: {} entries", chain.chain, chain.size)?;
        match chain.key {
            Some(key) => writeln!(
                out,
                ", signed up to entry {} by {}, as {} checkpoints say",
                chain.signed,
                hex::encode(key.0),
                chain.checkpoints
            )?,
            None => writeln!(out, ", none signed: nothing shows that it was not written anew")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use meridian_operator::policy_form::Others;
    use serde_json::json;

    #[test]
    fn the_policy_is_read_by_itself_and_out_of_a_stack_in_whichever_form_it_lies() {
        let plain = json!({
            "region": "eu", "revision": 7, "jurisdiction": "eu", "issuer": "https://eu.example", "public_url": "https://eu.example",
            "countries_served": ["DE"], "age_of_digital_consent": {"default": 16}, "retention": {}, "directory": [], "peers": [],
            "homes": [], "exports": [], "imports": [],
        });
        let mut own: RegionPolicy = serde_json::from_value(plain.clone()).unwrap();
        let policy = own.clone();
        let others = policy_form::packed_others(&Others::taken_from(&mut own)).unwrap();
        let packed = policy_form::packed(&own, &others).unwrap();
        for file in [
            plain.clone(),
            json!({"spec": {"policy": plain}}),
            json!({"spec": {"policy": packed}}),
        ] {
            assert_eq!(policy_in(Path::new("stack.json"), &file.to_string()).unwrap(), policy);
        }
        let refused = policy_in(Path::new("stack.json"), "{}").unwrap_err();
        assert!(
            refused.starts_with("stack.json holds no policy of a region"),
            "{refused}"
        );
    }
}
