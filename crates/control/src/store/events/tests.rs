//! Events on every engine at hand: numbers without gaps over appends of any size, repeats stored once, all gone together.

use serde_json::json;
use types::thread::Thread;
use types::{ExecutionMode, UserId};

use super::super::tests::{org, stores};
use super::super::{Store, orgs, threads, users};
use super::*;

fn now() -> Timestamp {
    Timestamp::from_unix_ms(1_800_000_000_000)
}

fn place() -> Place {
    Place {
        thread: ThreadId::from_random([1; 16]),
        rollout: RolloutId::from_random([2; 16]),
        run: Some(RunId::from_random([3; 16])),
    }
}

async fn add_thread(store: &Store) {
    let (org, owner) = (org(1, "one"), UserId::from_random([4; 16]));
    let user = api::orgs::User {
        id: owner,
        name: "Ada".to_owned(),
        created_at: now(),
    };
    let thread = Thread {
        id: place().thread,
        org_id: org.id,
        owner_user_id: owner,
        agent_id: None,
        title: None,
        execution_mode: ExecutionMode::LocalMac,
        archived: false,
        active_rollout_id: place().rollout,
        created_at: now(),
        updated_at: now(),
    };
    let mut tx = store.write().await.expect("a write");
    orgs::insert(&mut tx, &org).await.expect("stored");
    users::insert(&mut tx, &user).await.expect("stored");
    threads::insert(&mut tx, &thread).await.expect("stored");
    tx.commit().await.expect("durable");
}

fn drafts(count: usize, client_ids: bool) -> Vec<EventDraft> {
    let draft = |n: usize| EventDraft {
        event_type: EventType::UserMessage,
        payload: json!({ "text": format!("{n} 'quoted' $1 ü") }),
        client_event_id: client_ids.then(|| format!("id {n}")),
    };
    (0..count).map(draft).collect()
}

#[tokio::test]
async fn appends_of_any_size_are_numbered_without_gaps_and_read_back_as_they_were() {
    for (store, _dir) in stores().await {
        add_thread(&store).await;
        let mut tx = store.write().await.expect("a write");
        let mut expected: Vec<EventDraft> = Vec::new();
        for count in [1, 3, 4, 15, 16, 63, 64, 65, 149, 500] {
            let drafts = drafts(count, count == 63);
            let numbered = append(&mut tx, place(), &drafts, now()).await.expect("stored");
            expected.extend(drafts);
            assert_eq!(numbered.last, expected.len() as u64, "{count}");
            assert_eq!(numbered.stored as usize, count);
        }
        let listed = list(&mut tx, place().thread, None, 0, 10_000)
            .await
            .expect("read");
        assert_eq!(listed.len(), expected.len());
        for ((event, draft), number) in listed.iter().zip(&expected).zip(1..) {
            assert_eq!((event.sequence, &event.payload), (number, &draft.payload));
            assert_eq!((event.run_id, event.created_at), (place().run, now()));
        }
    }
}

#[tokio::test]
async fn what_is_repeated_is_left_out_of_an_append_wherever_it_stands() {
    for (store, _dir) in stores().await {
        add_thread(&store).await;
        let mut tx = store.write().await.expect("a write");
        let first = drafts(40, true);
        append(&mut tx, place(), &first[10..20], now())
            .await
            .expect("stored");
        let numbered = append(&mut tx, place(), &first, now()).await.expect("stored");
        assert_eq!((numbered.last, numbered.stored), (40, 30));
        let numbered = append(&mut tx, place(), &first, now()).await.expect("stored");
        assert_eq!((numbered.last, numbered.stored), (40, 0));
    }
}

#[tokio::test]
async fn a_thread_takes_its_events_and_rollouts_with_it() {
    for (store, _dir) in stores().await {
        add_thread(&store).await;
        let mut tx = store.write().await.expect("a write");
        append(&mut tx, place(), &drafts(70, true), now())
            .await
            .expect("stored");
        threads::delete(&mut tx, place().thread).await.expect("deleted");
        let left = "SELECT (SELECT COUNT(*) FROM events) + (SELECT COUNT(*) FROM rollouts) AS left_over";
        let row = sqlx::query(left).fetch_one(&mut *tx).await.expect("read");
        assert_eq!(row.int("left_over").expect("a number"), 0);
    }
}

#[tokio::test]
async fn rollouts_are_listed_in_their_order_though_the_clock_stands_still_or_goes_back() {
    for (store, _dir) in stores().await {
        add_thread(&store).await;
        let mut tx = store.write().await.expect("a write");
        let mut chain = vec![place().rollout];
        // Their ids go down, so that they do not bring the order about.
        for (id, ahead_ms) in [(9, 0), (8, 0), (7, -5_000), (6, 7)] {
            let next = RolloutId::from_random([id; 16]);
            let before = *chain.last().expect("one");
            let at = Timestamp::from_unix_ms(now().unix_ms() + ahead_ms);
            threads::follow_rollout(&mut tx, (before, next), at)
                .await
                .expect("stored");
            chain.push(next);
        }
        let listed = threads::rollouts(&mut tx, place().thread, (-1, ""), 10).await;
        let listed = listed.expect("read");
        let ids: Vec<_> = listed.iter().map(|rollout| rollout.rollout_id).collect();
        assert_eq!(ids, chain);
        for pair in listed.windows(2) {
            assert_eq!(pair[0].completed_at, Some(pair[1].started_at));
        }
        assert_eq!(listed[4].completed_at, None);
        assert_eq!(listed[4].started_at.unix_ms(), now().unix_ms() + 7);
    }
}
