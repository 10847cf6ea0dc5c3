//! Decisions on orders, against real folders and symlinks.

use std::os::unix::fs::symlink;
use std::path::Path;

use types::{AgentId, RolloutId, RunId, RunLimits, ThreadId, Timestamp};

use super::*;

fn order(folder_hint: Option<&str>) -> RunOrder {
    RunOrder {
        run_id: RunId::from_random([1; 16]),
        thread_id: ThreadId::from_random([2; 16]),
        rollout_id: RolloutId::from_random([3; 16]),
        agent_id: AgentId::from_random([4; 16]),
        agent_slug: "tester".parse().expect("slug"),
        runner: None,
        system_prompt: None,
        prompt: "hello".to_owned(),
        folder_hint: folder_hint.map(str::to_owned),
        env: BTreeMap::new(),
        limits: RunLimits::default(),
        model: None,
        temperature: None,
        settings: types::RunSettings::default(),
        history: None,
        created_at: Timestamp::default(),
    }
}

fn policy(allowed: &Path) -> Policy {
    let runner = RunnerPolicy {
        name: "sh".to_owned(),
        runner_type: RunnerType::Command,
        program: "sh".to_owned(),
        args: Vec::new(),
        env: BTreeMap::from([("FIXED".to_owned(), "1".to_owned())]),
        env_pass: vec!["SH_*".to_owned()],
        permissions: Permissions::Reject,
    };
    let allowed = std::fs::canonicalize(allowed).expect("there");
    Policy {
        accept_from: AcceptFrom::Org,
        allowed_folders: vec![allowed],
        default_folder: None,
        default_runner: Some("sh".to_owned()),
        concurrent_runs_max: 2,
        run_time_max: Duration::from_secs(100),
        env_pass: vec!["PATH".to_owned()],
        env_from_orders: vec!["ORDER_*".to_owned()],
        runners: BTreeMap::from([("sh".to_owned(), runner)]),
    }
}

fn own_env() -> Environment {
    let pairs = [
        ("PATH", "/usr/bin:/bin"),
        ("SECRET", "x"),
        ("SH_OPTION", "2"),
        ("FIXED", "0"),
    ];
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn decide(policy: &Policy, order: &RunOrder) -> Result<Permit, Refusal> {
    policy.permit(order, Origin::Org, 0, &own_env())
}

#[test]
fn a_run_works_inside_the_allowed_folder_and_nowhere_else() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let code = dir.path().join("code");
    std::fs::create_dir_all(code.join("repo")).expect("made");
    std::fs::create_dir_all(dir.path().join("code-private")).expect("made");
    std::fs::write(code.join("file"), "").expect("made");
    symlink("/etc", code.join("way-out")).expect("made");
    symlink(code.join("repo"), code.join("way-in")).expect("made");
    let policy = policy(&code);
    let code = std::fs::canonicalize(code).expect("there");

    for (hint, folder) in [
        (None, code.clone()),
        (Some(""), code.clone()),
        (Some("repo"), code.join("repo")),
        (Some("way-in"), code.join("repo")),
        (Some("repo/.."), code.clone()),
    ] {
        assert_eq!(
            decide(&policy, &order(hint)).expect("allowed").folder,
            folder,
            "{hint:?}"
        );
    }
    for hint in [
        "/etc",
        "/",
        "..",
        "../code-private",
        "way-out",
        "repo/../..",
        "missing",
        "file",
        "~",
        "a\0b",
    ] {
        let refusal = decide(&policy, &order(Some(hint))).expect_err(hint);
        assert_eq!(refusal.reason, OfferRefusal::Policy, "{hint}");
    }
}

#[test]
fn without_an_allowed_folder_nothing_runs() {
    let mut policy = policy(Path::new("/tmp"));
    policy.allowed_folders.clear();
    let refusal = decide(&policy, &order(None)).expect_err("no folder");
    assert!(refusal.message.contains("allowed_folders"), "{}", refusal.message);
}

#[test]
fn only_enabled_runners_of_the_right_type_run() {
    let policy = policy(Path::new("/tmp"));
    let mut asked = order(None);
    asked.runner = Some(RunnerSpec::Command {
        name: "sh".to_owned(),
    });
    decide(&policy, &asked).expect("enabled");
    asked.runner = Some(RunnerSpec::Acp {
        name: "sh".to_owned(),
    });
    assert_eq!(
        decide(&policy, &asked).expect_err("wrong type").reason,
        OfferRefusal::Policy
    );
    asked.runner = Some(RunnerSpec::Command {
        name: "rm".to_owned(),
    });
    let refusal = decide(&policy, &asked).expect_err("not enabled");
    assert!(
        refusal.message.contains("policy.toml enables: sh"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_missing_program_has_its_own_reason() {
    let mut policy = policy(Path::new("/tmp"));
    policy.runners.get_mut("sh").expect("there").program = "no-such-program".to_owned();
    assert_eq!(
        decide(&policy, &order(None)).expect_err("missing").reason,
        OfferRefusal::RunnerMissing
    );
}

#[test]
fn a_full_device_is_busy_and_a_private_one_takes_only_its_own() {
    let mut policy = policy(Path::new("/tmp"));
    let refusal = policy
        .permit(&order(None), Origin::Org, 2, &own_env())
        .expect_err("full");
    assert_eq!(refusal.reason, OfferRefusal::Busy);
    policy.accept_from = AcceptFrom::Device;
    let refusal = policy
        .permit(&order(None), Origin::Org, 0, &own_env())
        .expect_err("private");
    assert_eq!(refusal.reason, OfferRefusal::Policy);
    policy
        .permit(&order(None), Origin::Device, 0, &own_env())
        .expect("its own");
}

#[test]
fn a_runner_sees_only_what_is_passed_and_the_file_wins() {
    let policy = policy(Path::new("/tmp"));
    let mut asked = order(None);
    asked.env.insert("ORDER_X".to_owned(), "3".to_owned());
    let env = decide(&policy, &asked).expect("allowed").env;
    let expected = [
        ("FIXED", "1"),
        ("ORDER_X", "3"),
        ("PATH", "/usr/bin:/bin"),
        ("SH_OPTION", "2"),
    ];
    let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(env, Environment::from(expected));
    asked.env.insert("LD_PRELOAD".to_owned(), "/tmp/x.so".to_owned());
    let refusal = decide(&policy, &asked).expect_err("not listed");
    assert!(refusal.message.contains("LD_PRELOAD"), "{}", refusal.message);
}

#[test]
fn an_order_may_shorten_the_time_and_never_lengthen_it() {
    let policy = policy(Path::new("/tmp"));
    let mut asked = order(None);
    asked.limits.duration_s_max = Some(10);
    assert_eq!(
        decide(&policy, &asked).expect("allowed").run_time_max,
        Duration::from_secs(10)
    );
    asked.limits.duration_s_max = Some(1000);
    assert_eq!(
        decide(&policy, &asked).expect("allowed").run_time_max,
        Duration::from_secs(100)
    );
}

#[test]
fn a_pattern_never_lets_an_order_choose_which_code_runs() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let own = Environment::from([("PATH".to_owned(), "/bin:/usr/bin".to_owned())]);
    let mut policy = policy(dir.path());
    let mut order = order(None);
    for (pattern, name, allowed) in [
        ("*", "MY_VAR", true),
        ("*", "LD_PRELOAD", false),
        ("LD_*", "LD_PRELOAD", false),
        ("LD_PRELOAD", "LD_PRELOAD", true),
        ("*", "PATH", false),
        ("P*", "PYTHONPATH", false),
        ("*", "NODE_OPTIONS", false),
        ("*", "A=B", false),
        ("*", "", false),
        ("*", "A\0B", false),
    ] {
        policy.env_from_orders = vec![pattern.to_owned()];
        order.env = BTreeMap::from([(name.to_owned(), "x".to_owned())]);
        let permit = policy.permit(&order, Origin::Org, 0, &own);
        assert_eq!(permit.is_ok(), allowed, "{pattern} {name}");
    }
}

#[test]
fn a_prompt_is_never_an_option_of_its_program() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let own = Environment::from([("PATH".to_owned(), "/bin:/usr/bin".to_owned())]);
    let mut policy = policy(dir.path());
    let mut order = order(None);
    order.prompt = "--dangerously-skip-permissions".to_owned();
    for (args, allowed) in [
        (&["{prompt}"][..], false),
        (&["-p", "{prompt}"][..], false),
        (&["{prompt} please"][..], false),
        (&["--", "{prompt}"][..], true),
        (&["--ask={prompt}"][..], true),
        (&[][..], true),
    ] {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        policy.runners.get_mut("sh").expect("there").args = args;
        let permit = policy.permit(&order, Origin::Org, 0, &own);
        assert_eq!(permit.is_ok(), allowed, "{:?}", policy.runners["sh"].args);
    }
}
