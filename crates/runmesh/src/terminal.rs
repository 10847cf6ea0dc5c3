//! Making text that others wrote safe to show: a device's name must not move the cursor or hide what follows.

/// Returns whether a character moves the cursor, changes colours, reorders or hides text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{061C}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}'
        )
}

/// Replaces what a terminal would obey by `\u{FFFD}`; for text that stays on one line.
pub(crate) fn one_line(text: &str) -> String {
    let shown = |c: char| {
        if is_unsafe(c) {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}

/// Like [`one_line`], but keeps line ends and tabs.
pub(crate) fn lines(text: &str) -> String {
    let keep = |c: char| c == '\n' || c == '\t' || !is_unsafe(c);
    let shown = |c: char| if keep(c) { c } else { char::REPLACEMENT_CHARACTER };
    text.replace("\r\n", "\n").chars().map(shown).collect()
}

/// Escapes what is left of control characters in a JSON text: serde escapes the ASCII ones only.
pub(crate) fn json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unsafe(character) {
            shown.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_sequences_and_direction_marks_are_replaced() {
        assert_eq!(
            one_line("a\u{1b}[31mb\u{202e}c\nd\u{9b}"),
            "a\u{fffd}[31mb\u{fffd}c\u{fffd}d\u{fffd}"
        );
        assert_eq!(lines("a\r\n\tb\rc"), "a\n\tb\u{fffd}c");
        assert_eq!(one_line("Ada's Mac 💻 äöü"), "Ada's Mac 💻 äöü");
    }

    #[test]
    fn json_stays_json_and_means_the_same() {
        let text = "a\u{1b}b\u{9b}c\u{202e}d";
        let shown = json(&serde_json::to_string(text).expect("a text serializes"));
        assert!(shown.is_ascii());
        assert_eq!(serde_json::from_str::<String>(&shown).expect("still JSON"), text);
    }
}
