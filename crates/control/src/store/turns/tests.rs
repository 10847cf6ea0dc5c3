//! Turns on every engine at hand: what is shared, what is told, what a failure takes with it.

use std::sync::Mutex as Log;

use super::super::tests::{org, stores};
use super::super::{Store, orgs};
use super::*;

/// The store, with all the time there is for a transaction: how fast this machine is just now must not matter.
fn patient(store: Store) -> Store {
    let turns = Turns {
        age_max: Duration::from_secs(3600),
        ..Turns::default()
    };
    Store { turns, ..store }
}

async fn is_there(store: &Store, seed: u8) -> bool {
    let mut conn = store.read().await.expect("reads");
    let found = orgs::find(&mut conn, org(seed, "x").id).await;
    found.expect("reads").is_some()
}

/// Writes an org in a turn of its own.
async fn write(store: &Store, seed: u8) -> Result<(), StoreError> {
    let mut turn = store.turn().await?;
    orgs::insert(&mut turn, &org(seed, &format!("org-{seed}"))).await?;
    turn.finish(|| {}).await
}

#[tokio::test]
async fn writes_that_wait_are_committed_together_and_told_in_their_order() {
    for (store, _dir) in stores().await {
        let store = patient(store);
        let log = Arc::new(Log::new(Vec::new()));
        let first = store.turn().await.expect("begins");
        let writers: Vec<_> = (1..=9_u8)
            .map(|seed| {
                let (store, log) = (store.clone(), Arc::clone(&log));
                tokio::spawn(async move {
                    let mut turn = store.turn().await?;
                    log.lock().expect("log").push(("wrote", seed));
                    orgs::insert(&mut turn, &org(seed, &format!("org-{seed}"))).await?;
                    let told = Arc::clone(&log);
                    turn.finish(move || told.lock().expect("log").push(("told", seed)))
                        .await
                })
            })
            .collect();
        // Now all of them stand in line.
        tokio::task::yield_now().await;
        first.finish(|| {}).await.expect("commits");
        for writer in writers {
            writer.await.expect("ends").expect("commits");
        }
        let seeds = || 1..=9_u8;
        let expected: Vec<_> = seeds()
            .map(|seed| ("wrote", seed))
            .chain(seeds().map(|seed| ("told", seed)))
            .collect();
        assert_eq!(*log.lock().expect("log"), expected);
        for seed in seeds() {
            assert!(is_there(&store, seed).await);
        }
    }
}

#[tokio::test]
async fn nothing_is_seen_or_told_before_the_commit() {
    for (store, _dir) in stores().await {
        let store = patient(store);
        let mut first = store.turn().await.expect("begins");
        // The second stands in line before anything else, so the commit comes behind it.
        let mut second = Box::pin(store.turn());
        assert!(futures_util::poll!(second.as_mut()).is_pending());
        orgs::insert(&mut first, &org(1, "one")).await.expect("inserts");
        let log = Arc::new(Log::new(Vec::new()));
        let told = Arc::clone(&log);
        let first = first.finish(move || told.lock().expect("log").push(1));
        let (first, second) = {
            let mut first = Box::pin(first);
            assert!(futures_util::poll!(first.as_mut()).is_pending());
            (first, second.await.expect("begins"))
        };
        assert!(!is_there(&store, 1).await && log.lock().expect("log").is_empty());
        second.finish(|| {}).await.expect("commits");
        first.await.expect("commits");
        assert!(is_there(&store, 1).await);
        assert_eq!(*log.lock().expect("log"), [1]);
    }
}

#[tokio::test]
async fn a_write_that_fails_or_is_given_up_takes_no_other_with_it() {
    for (store, _dir) in stores().await {
        write(&store, 9).await.expect("commits");
        let held = store.turn().await.expect("begins");
        let given_up = async {
            let mut turn = store.turn().await?;
            orgs::insert(&mut turn, &org(3, "org-3")).await
        };
        let writing = async { tokio::join!(write(&store, 1), write(&store, 9), given_up, write(&store, 2)) };
        let (held, (one, again, given_up, two)) = tokio::join!(held.finish(|| {}), writing);
        held.expect("commits");
        one.expect("commits");
        assert!(matches!(again, Err(StoreError::Taken)));
        given_up.expect("inserted, and never finished");
        two.expect("commits");
        for (seed, expected) in [(1, true), (2, true), (3, false)] {
            assert_eq!(is_there(&store, seed).await, expected, "{seed}");
        }
        drop(store.turn().await.expect("begins"));
        write(&store, 4)
            .await
            .expect("a turn that did nothing is in nobody's way");
    }
}

#[tokio::test]
async fn a_waiting_write_may_go_away() {
    for (store, _dir) in stores().await {
        let held = store.turn().await.expect("begins");
        let mut gone: Vec<_> = (0..3).map(|_| Box::pin(store.turn())).collect();
        for waiting in &mut gone {
            assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        }
        let mut last = Box::pin(write(&store, 1));
        assert!(futures_util::poll!(last.as_mut()).is_pending());
        drop(gone.remove(1));
        let held = tokio::spawn(held.finish(|| {}));
        // The lock is handed to the first of them, which goes away with it.
        tokio::task::yield_now().await;
        drop(gone);
        last.await.expect("commits");
        held.await.expect("ends").expect("commits");
        assert!(is_there(&store, 1).await);
    }
}

#[tokio::test]
async fn when_the_commit_fails_every_write_in_it_is_told_and_the_next_one_works() {
    let (store, _dir) = stores().await.remove(0);
    let store = patient(store);
    let held = store.turn().await.expect("begins");
    let bad = async {
        let mut turn = store.turn().await?;
        // Such a constraint is looked at by the commit.
        let text = "PRAGMA defer_foreign_keys = ON; \
             INSERT INTO rollouts (id, thread_id, event_count, started_at) VALUES ('a', 'nowhere', 0, 0)";
        sqlx::raw_sql(text).execute(&mut *turn).await?;
        turn.finish(|| panic!("it is not durable")).await
    };
    let writing = async { tokio::join!(write(&store, 1), bad) };
    let (_, (good, bad)) = tokio::join!(held.finish(|| {}), writing);
    assert!(good.is_err() && bad.is_err(), "{good:?} {bad:?}");
    assert!(!is_there(&store, 1).await);
    write(&store, 1).await.expect("commits");
}

#[tokio::test]
async fn on_a_full_disk_a_write_was_done_exactly_when_it_is_told_so() {
    let dir = tempfile::TempDir::new().expect("temporary directory");
    let store = Store::open_sqlite(dir.path(), Some(100)).await.expect("opens");
    let held = store.turn().await.expect("begins");
    let large = async {
        let mut turn = store.turn().await?;
        let name = "x".repeat(1024 * 1024);
        let filling = sqlx::query("INSERT INTO orgs VALUES ('a', $1, '', 0, 0, 0, '', 0)");
        filling.bind(name).execute(&mut *turn).await?;
        turn.finish(|| {}).await
    };
    let writing = async { tokio::join!(write(&store, 1), large, write(&store, 2)) };
    let (_, (one, large, two)) = tokio::join!(held.finish(|| {}), writing);
    assert!(large.is_err());
    assert_eq!(is_there(&store, 1).await, one.is_ok(), "{one:?}");
    assert_eq!(is_there(&store, 2).await, two.is_ok(), "{two:?}");
    write(&store, 3).await.expect("there is room for a small one");
}

#[tokio::test]
async fn a_transaction_takes_in_a_bounded_number_of_writes() {
    let (store, _dir) = stores().await.remove(0);
    let store = patient(store);
    let counts = Arc::new(Log::new((0, 0)));
    let held = store.turn().await.expect("begins");
    let writers: Vec<_> = (0..3 * WRITES_MAX)
        .map(|_| {
            let (store, counts) = (store.clone(), Arc::clone(&counts));
            tokio::spawn(async move {
                let turn = store.turn().await?;
                {
                    let mut counts = counts.lock().expect("counts");
                    counts.0 += 1;
                    counts.1 = counts.1.max(counts.0);
                }
                let told = Arc::clone(&counts);
                turn.finish(move || told.lock().expect("counts").0 -= 1).await
            })
        })
        .collect();
    tokio::task::yield_now().await;
    held.finish(|| {}).await.expect("commits");
    for writer in writers {
        writer.await.expect("ends").expect("commits");
    }
    let (open, most) = *counts.lock().expect("counts");
    assert_eq!(open, 0);
    assert!((2..=WRITES_MAX).contains(&most), "{most}");
}

#[tokio::test]
async fn a_transaction_that_is_old_takes_in_no_more() {
    let (store, _dir) = stores().await.remove(0);
    let turns = Turns {
        age_max: Duration::ZERO,
        ..Turns::default()
    };
    let store = Store { turns, ..store };
    let mut first = store.turn().await.expect("begins");
    let mut second = Box::pin(store.turn());
    assert!(futures_util::poll!(second.as_mut()).is_pending());
    orgs::insert(&mut first, &org(1, "one")).await.expect("inserts");
    let first = tokio::spawn(first.finish(|| {}));
    let second = second.await.expect("begins");
    assert!(is_there(&store, 1).await, "committed before the second began");
    drop(second);
    first.await.expect("ends").expect("commits");
}
