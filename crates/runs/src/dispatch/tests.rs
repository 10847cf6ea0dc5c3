//! The state machine input by input.

use super::*;
use crate::protocol::{AppendRefusal, OfferRefusal, OpenRunState as Held};

fn t0() -> Timestamp {
    Timestamp::from_unix_ms(1_000_000)
}

fn queued() -> RunState {
    RunState::queued(t0(), t0() + QUEUE_TTL)
}

fn after(inputs: &[Input]) -> RunState {
    let mut state = queued();
    for input in inputs {
        state = state.step(*input, t0()).state;
    }
    state
}

fn check(state: &RunState, input: Input, at: Timestamp, phase: Phase, effects: &[Effect]) -> RunState {
    let step = state.step(input, at);
    assert_eq!(step.state.phase, phase, "{input:?} on {state:?}");
    assert_eq!(step.effects, effects, "{input:?} on {state:?}");
    step.state
}

const F1: Fence = Fence(1);
const STARTED: Input = Input::Stored {
    next: 2,
    started: true,
    ended: None,
};

#[test]
fn a_run_goes_from_the_queue_to_its_end() {
    let state = check(&queued(), Input::Offer, t0(), Phase::Offered, &[Effect::Offer]);
    assert_eq!(
        (state.attempt, state.fence, state.status()),
        (Attempt(1), F1, RunStatus::Dispatched)
    );
    let state = check(&state, Input::Accepted(F1), t0(), Phase::Accepted, &[]);
    let state = check(&state, STARTED, t0(), Phase::Running, &[]);
    let ended = Input::Stored {
        next: 5,
        started: false,
        ended: Some(RunStatus::Completed),
    };
    let state = check(&state, ended, t0(), Phase::Ended(RunStatus::Completed), &[]);
    for input in [
        Input::Offer,
        Input::Cancel,
        Input::Tick,
        Input::Disconnected,
        Input::DeviceRevoked,
        Input::InvalidEvents,
        STARTED,
    ] {
        assert_eq!(state.step(input, t0() + LOST_AFTER).state, state);
    }
}

#[test]
fn an_offer_that_was_not_answered_is_said_again_and_then_the_session_is_given_up() {
    let mut state = after(&[Input::Offer]);
    let mut at = t0();
    for _ in 1..OFFER_SENDS_MAX {
        at = at + OFFER_TIMEOUT;
        state = check(&state, Input::Tick, at, Phase::Offered, &[Effect::Offer]);
        assert_eq!(state.fence, F1);
    }
    let at = at + OFFER_TIMEOUT;
    let state = check(&state, Input::Tick, at, Phase::Queued, &[Effect::CloseSession]);
    let state = check(&state, Input::Hello(None), at, Phase::Queued, &[]);
    let state = check(&state, Input::Offer, at, Phase::Offered, &[Effect::Offer]);
    assert_eq!(state.fence, Fence(2));
}

#[test]
fn a_held_offer_is_found_in_hello_and_not_offered_again() {
    for held in [Held::Accepted, Held::Started, Held::Ended] {
        let state = after(&[Input::Offer, Input::Disconnected]);
        assert_eq!(state.status(), RunStatus::Queued);
        let appended = [Effect::Appended(F1, 1)];
        let state = check(
            &state,
            Input::Hello(Some((F1, held))),
            t0(),
            Phase::Accepted,
            &appended,
        );
        check(&state, Input::Offer, t0(), Phase::Accepted, &[]);
    }
}

#[test]
fn a_device_that_is_away_suspends_its_run_until_it_counts_as_lost() {
    let state = after(&[Input::Offer, Input::Accepted(F1), STARTED, Input::Disconnected]);
    assert_eq!(state.deadline(), Some((t0() + LOST_AFTER, Deadline::DeviceAway)));
    let back = check(
        &state,
        Input::Hello(Some((F1, Held::Started))),
        t0(),
        Phase::Running,
        &[Effect::Appended(F1, 2)],
    );
    assert_eq!(back.deadline(), None);
    let end = Effect::End(RunStatus::Lost, EndReason::DeviceAway);
    let refuse = Effect::Refuse(F1, AppendRefusal::RunEnded);
    let lost = Phase::Ended(RunStatus::Lost);
    let state = check(&state, Input::Tick, t0() + LOST_AFTER, lost, &[end, refuse]);
    let late = Input::Hello(Some((F1, Held::Started)));
    check(&state, late, t0(), lost, &[refuse]);
    let acknowledge = Effect::Appended(F1, 2);
    check(
        &state,
        Input::Hello(Some((F1, Held::Ended))),
        t0(),
        lost,
        &[acknowledge],
    );
}

#[test]
fn a_device_that_comes_back_without_its_run_has_lost_it() {
    for inputs in [
        &[Input::Offer, Input::Accepted(F1), Input::Disconnected][..],
        &[Input::Offer, Input::Accepted(F1), STARTED, Input::Disconnected],
    ] {
        let step = after(inputs).step(Input::Hello(None), t0());
        assert_eq!(
            step.effects[0],
            Effect::End(RunStatus::Lost, EndReason::JournalLost)
        );
    }
}

#[test]
fn a_queued_run_expires_and_a_refused_one_waits_longer_each_time() {
    let expired = Effect::End(RunStatus::Expired, EndReason::QueueTtl);
    let over = Phase::Ended(RunStatus::Expired);
    check(&queued(), Input::Tick, t0() + QUEUE_TTL, over, &[expired]);
    check(&queued(), Input::Offer, t0() + QUEUE_TTL, Phase::Queued, &[]);

    let (mut state, mut at, mut waits) = (queued(), t0(), Vec::new());
    for fence in 1..=10 {
        state = check(&state, Input::Offer, at, Phase::Offered, &[Effect::Offer]);
        let refused = Input::Refused(Fence(fence), OfferRefusal::Busy);
        state = check(&state, refused, at, Phase::Queued, &[]);
        waits.push(state.offer_at.since(at).as_secs());
        assert_eq!(state.deadline(), Some((state.offer_at, Deadline::Retry)));
        check(&state, Input::Offer, at, Phase::Queued, &[]);
        at = state.offer_at;
    }
    assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    let again = check(&state, Input::Tick, at, Phase::Queued, &[]);
    let expiry = (again.queue_until, Deadline::QueueTtl);
    assert_eq!(again.deadline(), Some(expiry), "a wait is over once");
    check(&state, Input::Tick, t0() + QUEUE_TTL, over, &[expired]);
}

#[test]
fn a_refusal_that_time_cannot_heal_fails_the_run() {
    for reason in [OfferRefusal::Policy, OfferRefusal::RunnerMissing] {
        let state = after(&[Input::Offer]);
        let end = Effect::End(RunStatus::Failed, EndReason::Refused(reason));
        let failed = Phase::Ended(RunStatus::Failed);
        check(&state, Input::Refused(F1, reason), t0(), failed, &[end]);
        check(
            &state,
            Input::Refused(Fence(0), reason),
            t0(),
            Phase::Offered,
            &[],
        );
    }
    let (mut state, mut at) = (queued(), t0());
    for fence in 1..=u64::from(DISPUTES_MAX) {
        state = state.step(Input::Offer, at).state;
        state = state
            .step(Input::Refused(Fence(fence), OfferRefusal::BadTicket), at)
            .state;
        at = at + RETRY_MAX;
    }
    assert_eq!(state.phase, Phase::Ended(RunStatus::Failed));
}

#[test]
fn cancel_ends_what_nobody_took_and_is_a_wish_for_the_rest() {
    let end = Effect::End(RunStatus::Cancelled, EndReason::CancelledBeforeStart);
    let over = Phase::Ended(RunStatus::Cancelled);
    check(&queued(), Input::Cancel, t0(), over, &[end]);

    let offered = check(
        &after(&[Input::Offer]),
        Input::Cancel,
        t0(),
        Phase::Offered,
        &[Effect::Cancel],
    );
    check(
        &offered,
        Input::Refused(F1, OfferRefusal::Busy),
        t0(),
        over,
        &[end],
    );
    let gone = offered.step(Input::Disconnected, t0()).state;
    check(&gone, Input::Hello(None), t0(), over, &[end]);
    check(
        &offered,
        Input::Accepted(F1),
        t0(),
        Phase::Accepted,
        &[Effect::Cancel],
    );

    let running = after(&[Input::Offer, Input::Accepted(F1), STARTED]);
    let state = check(&running, Input::Cancel, t0(), Phase::Running, &[Effect::Cancel]);
    let state = state.step(Input::Disconnected, t0()).state;
    let later = t0() + CANCEL_TIMEOUT;
    check(&state, Input::Tick, later, Phase::Running, &[]);
    let hello = Input::Hello(Some((F1, Held::Started)));
    let again = [Effect::Appended(F1, 2), Effect::Cancel];
    let state = check(&state, hello, later, Phase::Running, &again);
    let unconfirmed = Effect::End(RunStatus::Cancelled, EndReason::CancelUnconfirmed);
    let refuse = Effect::Refuse(F1, AppendRefusal::RunEnded);
    check(
        &state,
        Input::Tick,
        later + CANCEL_TIMEOUT,
        over,
        &[unconfirmed, refuse],
    );
}

#[test]
fn a_registered_run_is_held_from_the_start_and_a_refusal_fails_it() {
    let state = RunState::registered(t0());
    assert_eq!(state.status(), RunStatus::Registered);
    let running = check(&state, STARTED, t0(), Phase::Running, &[]);
    assert_eq!(running.status(), RunStatus::Running);
    let step = state.step(Input::Refused(F1, OfferRefusal::Busy), t0());
    assert_eq!(step.state.phase, Phase::Ended(RunStatus::Failed));
}

#[test]
fn a_fence_from_a_future_that_was_forgotten_is_passed() {
    let held = Input::Hello(Some((Fence(7), Held::Accepted)));
    let refuse = Effect::Refuse(Fence(7), AppendRefusal::Fenced);
    let state = check(&queued(), held, t0(), Phase::Queued, &[refuse]);
    let state = check(&state, Input::Offer, t0(), Phase::Offered, &[Effect::Offer]);
    assert_eq!(state.fence, Fence(8));
}
