//! What the keyring promises about its files: an acknowledged key survives a kill, a destroyed one is gone from the
//! disk and never comes back, and no key is ever there in clear.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops at the first surprise"
)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meridian_keyring::domain::address::KeyAddress;
use meridian_keyring::store::wrapping::Wrapping;
use meridian_keyring::store::{Destruction, Found, Rewrapped, Store};

const KEK: [u8; 32] = [7; 32];
/// Set in the child that gets killed: the directory of its store.
const CHILD: &str = "KEYRING_CRASH_CHILD";

fn open(directory: &Path) -> Store {
    open_with(directory, &KEK).0
}

fn open_with(directory: &Path, kek: &[u8]) -> (Store, Rewrapped) {
    Store::open(directory, Wrapping::parse(kek).unwrap()).unwrap()
}

fn address(n: u32, scope: &str) -> KeyAddress {
    KeyAddress {
        tenant: "stride-eu".parse().unwrap(),
        subject: format!("00000000-0000-4000-8000-{n:012x}").parse().unwrap(),
        scope: scope.parse().unwrap(),
    }
}

async fn create(store: &Store, address: &KeyAddress) -> [u8; 32] {
    live(store.create(vec![address.clone()]).await.unwrap().remove(0))
}

async fn find(store: &Store, address: &KeyAddress) -> Found {
    store.find(vec![address.clone()]).await.unwrap().remove(0)
}

fn live(found: Found) -> [u8; 32] {
    match found {
        Found::Live(key) => *key,
        Found::Absent => panic!("the key is absent"),
        Found::Destroyed | Found::SubjectErased => panic!("the key is destroyed"),
    }
}

/// Every byte of every file of the store.
fn raw(directory: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    files.flat_map(|path| std::fs::read(path).unwrap()).collect()
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

#[tokio::test]
async fn a_key_stays_the_same_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let personal = create(&store, &address(1, "personal")).await;
    let location = create(&store, &address(1, "location-2026-11")).await;
    assert_ne!(personal, location);
    assert_eq!(create(&store, &address(1, "personal")).await, personal);
    close(store).await;

    let store = open(directory.path());
    assert_eq!(live(find(&store, &address(1, "personal")).await), personal);
    assert!(matches!(find(&store, &address(2, "personal")).await, Found::Absent));
}

#[tokio::test]
async fn a_destroyed_key_is_never_made_again_and_neither_is_an_erased_subjects() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let (november, december, personal) = (
        address(1, "location-2026-11"),
        address(1, "location-2026-12"),
        address(1, "personal"),
    );
    create(&store, &november).await;
    create(&store, &personal).await;
    assert_eq!(store.destroy(Destruction::Key(november.clone())).await.unwrap(), 1);
    // A key that never was can be destroyed too: a late first use must not make it.
    assert_eq!(store.destroy(Destruction::Key(december.clone())).await.unwrap(), 0);
    for gone in [&november, &december] {
        assert!(matches!(
            store.create(vec![gone.clone()]).await.unwrap()[0],
            Found::Destroyed
        ));
    }
    live(find(&store, &personal).await);

    let subject = Destruction::Subject(personal.tenant.clone(), personal.subject);
    assert_eq!(store.destroy(subject.clone()).await.unwrap(), 1);
    assert_eq!(
        store.destroy(subject).await.unwrap(),
        0,
        "erasing twice is erasing once"
    );
    close(store).await;

    let store = open(directory.path());
    for scope in [
        "personal",
        "location-2026-11",
        "location-2027-01",
        "import-stride-eu.workout-summary.us",
    ] {
        let found = store.create(vec![address(1, scope)]).await.unwrap().remove(0);
        assert!(matches!(found, Found::SubjectErased), "{scope}");
    }
    create(&store, &address(2, "personal")).await;
}

#[tokio::test]
async fn a_cut_edge_takes_every_subjects_key_and_a_lawful_edge_starts_with_new_ones() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let edge = "import-stride-eu.workout-summary.us";
    let first = create(&store, &address(1, edge)).await;
    create(&store, &address(2, edge)).await;
    let other = create(&store, &address(2, "import-stride-eu.social-graph.us")).await;

    let cut = Destruction::Scope(address(1, edge).tenant, edge.parse().unwrap());
    assert_eq!(store.destroy(cut).await.unwrap(), 2);
    assert!(matches!(find(&store, &address(1, edge)).await, Found::Destroyed));
    assert_eq!(
        live(find(&store, &address(2, "import-stride-eu.social-graph.us")).await),
        other
    );
    assert_ne!(
        create(&store, &address(1, edge)).await,
        first,
        "what was sealed before stays sealed"
    );
}

#[tokio::test]
async fn a_leased_key_that_was_destroyed_does_not_come_back_by_replay() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let lease = address(1, "import-stride-eu.workout-summary.us");
    assert!(store.admit_lease(lease.to_bytes(), [1; 32]).await.unwrap());
    assert!(
        store.admit_lease(lease.to_bytes(), [1; 32]).await.unwrap(),
        "a renewal is admitted"
    );
    store.destroy(Destruction::Key(lease.clone())).await.unwrap();
    close(store).await;

    let store = open(directory.path());
    assert!(!store.admit_lease(lease.to_bytes(), [1; 32]).await.unwrap());
    assert!(
        store.admit_lease(lease.to_bytes(), [2; 32]).await.unwrap(),
        "a lawful edge leases a new key"
    );
}

#[tokio::test]
async fn no_key_is_in_the_files_in_clear_and_a_destroyed_one_not_even_wrapped() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let mut keys = Vec::new();
    for n in 0..50 {
        keys.push(create(&store, &address(n, "personal")).await);
    }
    let before = raw(directory.path());
    for key in &keys {
        assert!(!contains(&before, key));
        assert!(!contains(&before, STANDARD.encode(key).as_bytes()));
        assert!(!contains(&before, &KEK));
    }

    let slots = std::fs::read(directory.path().join("keyring.slots")).unwrap();
    let wrapped: Vec<&[u8]> = slots.chunks_exact(64).collect();
    assert_eq!(wrapped.len(), 50);
    for n in 0..50 {
        store.destroy(Destruction::Key(address(n, "personal"))).await.unwrap();
    }
    let after = raw(directory.path());
    for slot in wrapped {
        assert!(
            !contains(&after, &slot[16..]),
            "a destroyed key's ciphertext is still on the disk"
        );
    }
}

#[tokio::test]
async fn an_overwritten_slot_is_used_again_for_another_key_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    let first = create(&store, &address(1, "personal")).await;
    store.destroy(Destruction::Key(address(1, "personal"))).await.unwrap();
    let second = create(&store, &address(2, "personal")).await;
    assert_ne!(first, second);
    assert_eq!(
        std::fs::metadata(directory.path().join("keyring.slots")).unwrap().len(),
        64
    );
    assert!(matches!(find(&store, &address(1, "personal")).await, Found::Destroyed));
    assert_eq!(live(find(&store, &address(2, "personal")).await), second);
}

#[tokio::test]
async fn a_new_kek_version_rewraps_every_key_and_the_old_one_can_go() {
    let line = |version: u32, byte: u8| format!("{version}:{}\n", STANDARD.encode([byte; 32]));
    let directory = tempfile::tempdir().unwrap();
    let store = open_with(directory.path(), line(1, 1).as_bytes()).0;
    let key = create(&store, &address(1, "personal")).await;
    create(&store, &address(2, "personal")).await;
    close(store).await;

    let (store, rewrapped) = open_with(directory.path(), (line(1, 1) + &line(2, 2)).as_bytes());
    assert_eq!(rewrapped, Rewrapped(2));
    close(store).await;
    let (store, rewrapped) = open_with(directory.path(), line(2, 2).as_bytes());
    assert_eq!(rewrapped, Rewrapped(0));
    assert_eq!(live(find(&store, &address(1, "personal")).await), key);
}

#[tokio::test]
async fn the_wrong_kek_is_noticed_when_a_key_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    create(&store, &address(1, "personal")).await;
    close(store).await;
    let store = open_with(directory.path(), &[8; 32]).0;
    assert!(store.find(vec![address(1, "personal")]).await.is_err());
}

#[tokio::test]
async fn a_second_keyring_on_the_same_files_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let _first = open(directory.path());
    let error = Store::open(directory.path(), Wrapping::parse(&KEK).unwrap())
        .err()
        .unwrap();
    assert!(error.to_string().contains("in use by another keyring"), "{error}");
}

/// Kills a keyring that makes and destroys keys as fast as it can, five times, and looks after each kill whether
/// everything it had acknowledged is still so.
#[test]
fn a_killed_keyring_has_lost_nothing_it_acknowledged() {
    if let Some(directory) = std::env::var_os(CHILD) {
        work_until_killed(Path::new(&directory));
    }
    let directory = tempfile::tempdir().unwrap();
    let (mut made, mut destroyed) = (Vec::new(), Vec::new());
    for round in 0..5_u32 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "a_killed_keyring_has_lost_nothing_it_acknowledged",
                "--exact",
                "--nocapture",
            ])
            .env(CHILD, directory.path())
            .env("KEYRING_CRASH_ROUND", round.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines.map_while(Result::ok) {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["made", n, key] => made.push((n.parse::<u32>().unwrap(), STANDARD.decode(key).unwrap())),
                ["destroyed", n] => destroyed.push(n.parse::<u32>().unwrap()),
                _ => continue,
            }
            seen += 1;
            if seen == 40 + round * 7 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 40, "the child did some work: {seen}");

        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = open(directory.path());
            for (n, key) in made.iter().filter(|(n, _)| !destroyed.contains(n)) {
                // The last key may be one whose destruction was committed but not yet acknowledged.
                match find(&store, &address(*n, "personal")).await {
                    Found::Live(found) => assert_eq!(&found[..], &key[..], "key {n}"),
                    Found::Destroyed => assert_eq!(n % 3, 0, "key {n} was never to be destroyed"),
                    Found::Absent | Found::SubjectErased => panic!("key {n} was acknowledged and is lost"),
                }
            }
            for n in &destroyed {
                assert!(
                    matches!(find(&store, &address(*n, "personal")).await, Found::Destroyed),
                    "key {n} came back"
                );
            }
            close(store).await;
        });
    }
    assert!(!destroyed.is_empty());
}

fn work_until_killed(directory: &Path) -> ! {
    let round: u32 = std::env::var("KEYRING_CRASH_ROUND").unwrap().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(directory);
        for n in round * 1_000_000.. {
            let key = create(&store, &address(n, "personal")).await;
            println!("made {n} {}", STANDARD.encode(key));
            if n % 3 == 0 {
                store.destroy(Destruction::Key(address(n, "personal"))).await.unwrap();
                println!("destroyed {n}");
            }
        }
    });
    unreachable!("the parent kills this process long before the numbers end")
}

/// Closes a store and waits until its files are free to be opened again.
async fn close(store: Store) {
    store.close().await;
}
