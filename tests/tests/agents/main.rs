//! Real agents through RunMesh itself: a control plane, a node and a dispatched run, with an agent program as people install
//! it, in an environment of its own under policy, against a stand-in model on 127.0.0.1. One module for each agent, one test
//! for each thing that it must do; what is checked is [`behaviour`]'s matter. Each test has a network of its own that leads
//! nowhere ([`mod@network`]): agents look for news of themselves wherever they can.
//!
//! `cargo xtask test` installs the agents. The tests of one that is missing say so and are counted as skipped.

mod behaviour;
mod network;
mod stage;

macro_rules! agent {
    ($module:ident, $name:literal) => {
        mod $module {
            use crate::behaviour;
            use crate::network::offline;

            #[test]
            fn uses_a_tool_that_the_policy_allows() {
                offline(|| behaviour::uses_a_tool($name));
            }

            #[test]
            fn is_told_no_by_the_policy() {
                offline(|| behaviour::is_told_no($name));
            }

            #[test]
            fn is_cancelled_in_the_middle_of_a_tool() {
                offline(|| behaviour::is_cancelled($name));
            }

            #[test]
            fn that_is_killed_ends_its_run_with_a_reason() {
                offline(|| behaviour::is_killed($name));
            }

            #[test]
            fn remembers_in_a_second_run_of_the_thread() {
                offline(|| behaviour::remembers($name));
            }
        }
    };
}

agent!(goose, "goose");
agent!(codex, "codex-acp");
agent!(claude, "claude-agent-acp");
agent!(opencode, "opencode");
agent!(gemini, "gemini");

#[test]
fn what_goose_cannot_be_told_is_named() {
    network::offline(|| behaviour::tells_what_was_not_applied("goose"));
}
