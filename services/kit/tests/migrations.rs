//! The services of the last release go on beside the schemas of the next one (docs/adr/0019): a step that was released never
//! changes, and a new one adds, unless it says since which release nobody uses what it takes away.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};

/// What a step says that takes something away: the release since which no service uses it.
const CONTRACT: &str = "-- contract: since ";

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What a release has.
struct Released {
    version: Vec<u32>,
    /// SHA-256 by path.
    steps: BTreeMap<String, String>,
}

fn version(text: &str) -> Option<Vec<u32>> {
    text.trim().split('.').map(|part| part.parse().ok()).collect()
}

fn released() -> Released {
    let text = fs::read_to_string(project().join("services/released-steps.txt")).unwrap();
    let lines = || text.lines().filter(|line| !line.starts_with('#'));
    Released {
        version: lines()
            .find_map(|line| version(line.strip_prefix("release ")?))
            .unwrap(),
        steps: lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(hash, path)| (path.to_owned(), hash.to_owned()))
            .collect(),
    }
}

/// Every step there is, by path.
fn steps() -> BTreeMap<String, String> {
    let mut steps = BTreeMap::new();
    for service in fs::read_dir(project().join("services")).unwrap() {
        let folder = service.unwrap().path().join("migrations");
        for file in fs::read_dir(&folder).into_iter().flatten() {
            let path = file.unwrap().path();
            let service = path.ancestors().nth(2).unwrap().file_name().unwrap().to_str().unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            let text = fs::read_to_string(&path).unwrap();
            steps.insert(format!("services/{service}/migrations/{name}"), text);
        }
    }
    steps
}

/// The statements of a step in small letters, each as its words; without comments, texts and bodies of functions.
fn statements(sql: &str) -> Vec<Vec<String>> {
    let plain: String = sql
        .lines()
        .map(|line| line.split("--").next().unwrap_or_default().to_lowercase() + "\n")
        .collect();
    let outside = |text: &str, quote: &str| text.split(quote).step_by(2).collect::<Vec<_>>().join(" … ");
    let plain = outside(&outside(&plain, "$$"), "'");
    let spaced = plain.replace('(', " ( ").replace(')', " ) ").replace(',', " , ");
    let statements = spaced
        .split(';')
        .map(|one| one.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    statements.filter(|words| !words.is_empty()).collect()
}

/// Whether these words follow one another.
fn says(words: &[String], wanted: &str) -> bool {
    let wanted: Vec<&str> = wanted.split(' ').collect();
    words.windows(wanted.len()).any(|window| window == wanted)
}

/// What a statement may break for a service that knows nothing of it; `made` are the tables that it never knew.
fn breaks(words: &[String], made: &BTreeSet<String>) -> Option<&'static str> {
    let begins = |wanted: &str| says(words.get(..wanted.split(' ').count()).unwrap_or_default(), wanted);
    let after = |wanted: &str| {
        let place = words.iter().position(|word| word == wanted)?;
        words.get(place + 1)
    };
    let of_new_table = |name: Option<&String>| name.is_some_and(|name| made.contains(name));
    for (statement, cause) in [
        ("drop table", "it reads and writes the table"),
        ("drop view", "it reads the view"),
        ("drop function", "it calls the function"),
        ("drop type", "it uses the type"),
        ("drop policy", "without the policy it sees nothing"),
        ("drop schema", "it uses what is in the schema"),
        ("truncate", "it needs the rows"),
        ("delete", "it needs the rows"),
        ("revoke", "it needs the right"),
        ("alter type", "it uses the type as it was"),
    ] {
        if begins(statement) {
            return Some(cause);
        }
    }
    if begins("create unique index") && !of_new_table(after("on")) {
        return Some("what it writes may be twice there");
    }
    if begins("create trigger") && !of_new_table(after("on")) {
        return Some("what it writes may be refused or changed");
    }
    let named = |word: &&String| !["only", "if", "exists"].contains(&word.as_str());
    let table = words.iter().skip(2).position(|word| named(&word))? + 2;
    if !begins("alter table") || made.contains(&words[table]) {
        return None;
    }
    clauses(&words[table + 1..])
        .iter()
        .find_map(|clause| breaking_clause(clause))
}

/// What an `alter table` does, one by one.
fn clauses(words: &[String]) -> Vec<Vec<String>> {
    let (mut clauses, mut depth) = (vec![vec![]], 0);
    for word in words {
        match word.as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            "," if depth == 0 => clauses.push(vec![]),
            _ => {}
        }
        clauses.last_mut().unwrap().push(word.clone());
    }
    clauses
}

fn breaking_clause(clause: &[String]) -> Option<&'static str> {
    let any = |wanted: &[&str]| wanted.iter().any(|wanted| says(clause, wanted));
    let harmless = ["constraint", "not", "default", "expression"];
    if clause
        .windows(2)
        .any(|pair| pair[0] == "drop" && !harmless.contains(&pair[1].as_str()))
    {
        return Some("it reads and writes the column");
    }
    if any(&["rename"]) {
        return Some("it knows the old name");
    }
    if any(&["alter"]) && any(&["type"]) {
        return Some("it reads and writes the old type");
    }
    if any(&["set not null"]) {
        return Some("it may write none");
    }
    if any(&["add"]) && any(&["not null"]) && !any(&["default", "generated"]) {
        return Some("it writes no such column");
    }
    let bounds = [
        "constraint",
        "check",
        "unique",
        "primary",
        "foreign",
        "exclude",
        "references",
    ];
    (any(&["add"]) && any(&bounds)).then_some("what it writes may be refused")
}

/// What is wrong with a step that is not released yet.
fn wrong(sql: &str, last: &[u32], made: &BTreeSet<String>) -> Vec<String> {
    let contract = sql.lines().find_map(|line| line.trim().strip_prefix(CONTRACT));
    match contract.map(version) {
        None => {}
        Some(Some(since)) if since.as_slice() <= last => return vec![],
        Some(_) => {
            return vec![format!(
                "`{CONTRACT}` names no release that there was: the last one may still use it"
            )];
        }
    }
    let breaking = statements(sql)
        .into_iter()
        .filter_map(|words| Some((breaks(&words, made)?, words.join(" "))));
    breaking
        .map(|(cause, statement)| format!("{statement}: {cause}"))
        .collect()
}

/// The tables that a step makes.
fn made_by(sql: &str) -> impl Iterator<Item = String> {
    let makes = |words: Vec<String>| {
        says(words.get(..2)?, "create table").then(|| {
            words
                .into_iter()
                .skip(2)
                .find(|word| !["if", "not", "exists"].contains(&word.as_str()))
        })?
    };
    statements(sql).into_iter().filter_map(makes)
}

#[test]
fn a_step_that_was_released_is_there_and_unchanged() {
    let steps = steps();
    for (path, hash) in released().steps {
        let text = steps
            .get(&path)
            .unwrap_or_else(|| panic!("{path} was released and is gone"));
        let found = hex::encode(digest(&SHA256, text.as_bytes()));
        assert_eq!(found, hash, "{path} was released; add a step instead of changing it");
    }
}

#[test]
fn a_new_step_adds_or_says_since_when_nobody_uses_what_it_takes_away() {
    let released = released();
    let mut made: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, sql) in steps().iter().filter(|(path, _)| !released.steps.contains_key(*path)) {
        let service = path.split('/').nth(1).unwrap().to_owned();
        let made = made.entry(service).or_default();
        made.extend(made_by(sql));
        let wrong = wrong(sql, &released.version, made);
        assert!(
            wrong.is_empty(),
            "{path}: a service of the release before cannot go on beside it (docs/adr/0019):\n  {}",
            wrong.join("\n  ")
        );
    }
}

#[test]
fn what_the_release_before_cannot_go_on_beside_is_found() {
    let made = BTreeSet::from(["new".to_owned()]);
    for sql in [
        "drop table a;",
        "alter table a drop column b;",
        "alter table a add column c int, drop b;",
        "ALTER TABLE only a RENAME COLUMN b TO c;",
        "alter table a rename to b;",
        "alter table a alter column b type bigint;",
        "alter table a alter b set data type bigint;",
        "alter table a alter column b set not null;",
        "alter table a add column b int not null;",
        "alter table a add column c int default 0, add column b int not null;",
        "alter table a add constraint b check (c > 0);",
        "alter table a add column b int references c (d);",
        "create unique index a_b on a (b);",
        "create trigger t before insert on a for each row execute function f();",
        "revoke select on a from b;",
        "delete from a where b;",
        "drop policy tenant on a;",
        "create table other (id int); drop function f();",
    ] {
        assert_eq!(wrong(sql, &[0, 1, 0], &made).len(), 1, "{sql}");
        let marked = |since: &str| format!("-- contract: since {since}\n{sql}");
        assert!(wrong(&marked("0.1.0"), &[0, 1, 0], &made).is_empty(), "{sql}");
        assert_eq!(
            wrong(&marked("0.2.0"), &[0, 1, 0], &made).len(),
            1,
            "the last release uses it: {sql}"
        );
        assert_eq!(wrong(&marked("ever"), &[0, 1, 0], &made).len(), 1, "{sql}");
    }
}

#[test]
fn what_only_adds_is_no_harm() {
    let made = BTreeSet::from(["new".to_owned()]);
    for sql in [
        "create table b (id int primary key, c int not null check (c > 0), unique (c));",
        "alter table a add column b text;",
        "alter table a add column b int not null default 0;",
        "alter table a add column b int generated always as (c + 1) stored not null;",
        "alter table a alter column b drop not null, alter column c set default 1, drop constraint d;",
        "create index a_b on a (b); drop index a_c;",
        "create unique index new_b on new (b); alter table new add constraint c check (d > 0);",
        "-- drop table a;\nselect meridian_guard('new');",
        "create function f() returns void language plpgsql as $$ begin drop table a; end $$;",
        "update a set b = 'drop table a; delete' where b is null;",
    ] {
        assert_eq!(wrong(sql, &[0, 1, 0], &made), Vec::<String>::new(), "{sql}");
    }
    assert_eq!(
        made_by("create table if not exists x (id int); create table y (id int);").collect::<Vec<_>>(),
        ["x", "y"]
    );
}
