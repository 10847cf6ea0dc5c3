//! Names: strict DNS labels for what stands in an address, cleaned text for what people and peers call things.
//!
//! Peer-made text is hostile until one of these types holds it; both the server and the node parse it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The longest DNS label (RFC 1035 section 2.3.4).
pub const LABEL_LEN_MAX: usize = 63;

/// The longest label, operating system or host name that is kept, in characters.
pub const DISPLAY_TEXT_CHARS_MAX: usize = 128;

/// Why a text is no name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// More characters than the limit.
    #[error("must be at most {0} characters")]
    TooLong(usize),
    /// A character outside the alphabet, or a hyphen first or last.
    #[error("must be lower-case letters, digits and inner hyphens (a DNS label)")]
    NotALabel,
    /// Control characters or invisible direction marks.
    #[error("must not contain control or invisible characters")]
    Unprintable,
}

fn check_label(text: &str) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > LABEL_LEN_MAX {
        return Err(NameError::TooLong(LABEL_LEN_MAX));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b == Some(&b'-');
    let bytes = text.as_bytes();
    if !bytes.iter().all(|b| allowed(*b)) || edge(bytes.first()) || edge(bytes.last()) {
        return Err(NameError::NotALabel);
    }
    Ok(())
}

macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Returns the text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                let check: fn(&str) -> Result<(), NameError> = $check;
                check(text)?;
                Ok(Self(text.to_owned()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

checked_text!(
    /// The name of a node: a strict DNS label, unique in its org.
    NodeName,
    check_label
);
checked_text!(
    /// The name of an org: a strict DNS label, unique in a control plane.
    OrgName,
    check_label
);
checked_text!(
    /// The slug of an agent: `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`, at most 63 characters (contract §4).
    AgentSlug,
    check_label
);
checked_text!(
    /// The name of a tag or of a group of people: a strict DNS label.
    Label,
    check_label
);
checked_text!(
    /// Text that people or peers chose and that is only ever shown: 1 to 128 printable characters.
    DisplayText,
    check_display_text
);

fn check_display_text(text: &str) -> Result<(), NameError> {
    if text.trim().is_empty() {
        return Err(NameError::Empty);
    }
    if text.chars().count() > DISPLAY_TEXT_CHARS_MAX {
        return Err(NameError::TooLong(DISPLAY_TEXT_CHARS_MAX));
    }
    if text.chars().any(is_unprintable) {
        return Err(NameError::Unprintable);
    }
    Ok(())
}

/// Control characters, and the marks that reorder or hide text and so can make an approve page lie.
#[must_use]
pub fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{00AD}' | '\u{061C}' | '\u{180E}' | '\u{200B}'..='\u{200F}')
        || matches!(c, '\u{2028}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
        || matches!(c, '\u{FFF0}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}')
}

impl NodeName {
    /// Makes the nearest label to a free text (a host name, a device label); `fallback` when nothing of it is left.
    #[must_use]
    pub fn nearest(text: &str, fallback: &str) -> Self {
        Self(
            nearest_label(text)
                .unwrap_or_else(|| nearest_label(fallback).unwrap_or_else(|| "node".to_owned())),
        )
    }

    /// Returns this name with `-<number>` behind it, cut to fit: how a taken name is made unique.
    #[must_use]
    pub fn numbered(&self, number: u32) -> Self {
        let suffix = format!("-{number}");
        let keep = self.0.len().min(LABEL_LEN_MAX - suffix.len());
        Self(format!("{}{suffix}", self.0[..keep].trim_end_matches('-')))
    }

    /// Returns `<node>.<org>.mesh.internal`.
    #[must_use]
    pub fn dns_name(&self, org: &OrgName) -> String {
        format!("{self}.{org}.{MESH_ZONE}")
    }
}

/// The zone under which every org's names stand; `internal` is reserved for private use by ICANN.
pub const MESH_ZONE: &str = "mesh.internal";

/// Why a text names no node of an org.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MeshNameError {
    /// It stands outside the zone.
    #[error("it is neither a node's name nor one under {MESH_ZONE}")]
    NotOfTheMesh,
    /// It stands under another org.
    #[error("it is a name of another org")]
    OtherOrg,
}

/// Reads a node's name: a label by itself, or `<node>.<org>.mesh.internal` of this org. As in DNS, case does not matter and a
/// final dot may stand there.
pub fn node_of_mesh_name(text: &str, org: &OrgName) -> Result<NodeName, MeshNameError> {
    let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let label = |text: &str| text.parse().map_err(|_| MeshNameError::NotOfTheMesh);
    let Some((node, rest)) = text.split_once('.') else {
        return label(&text);
    };
    match rest
        .strip_suffix(MESH_ZONE)
        .and_then(|rest| rest.strip_suffix('.'))
    {
        Some(named) if named == org.as_str() => label(node),
        Some(named) if check_label(named).is_ok() => Err(MeshNameError::OtherOrg),
        _ => Err(MeshNameError::NotOfTheMesh),
    }
}

fn nearest_label(text: &str) -> Option<String> {
    let mut label = String::new();
    // A host name's first label is the machine; the rest is its network.
    let first = text.split('.').next().unwrap_or_default();
    for c in first.chars().flat_map(char::to_lowercase) {
        if c.is_ascii_lowercase() || c.is_ascii_digit() {
            label.push(c);
        } else if !label.ends_with('-') && !label.is_empty() && c != '\'' && c != '’' {
            label.push('-');
        }
        if label.len() == LABEL_LEN_MAX {
            break;
        }
    }
    let label = label.trim_end_matches('-');
    (!label.is_empty()).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_by_its_label_or_in_full() {
        let org: OrgName = "home".parse().expect("a label");
        for text in [
            "laptop",
            "Laptop",
            "laptop.",
            "laptop.home.mesh.internal",
            "LAPTOP.home.Mesh.Internal.",
        ] {
            let node = node_of_mesh_name(text, &org).expect(text);
            assert_eq!(node.as_str(), "laptop");
        }
        assert_eq!(
            node_of_mesh_name("laptop.work.mesh.internal", &org),
            Err(MeshNameError::OtherOrg)
        );
        for text in [
            "",
            ".",
            "lap_top",
            "laptop..",
            "example.com",
            "laptop.home",
            "laptop.mesh.internal",
            "mesh.internal",
            "a.laptop.home.mesh.internal",
            "laptop.home.mesh.internal.example.com",
            ".home.mesh.internal",
            "laptop..mesh.internal",
            "laptop.homemesh.internal",
        ] {
            assert_eq!(
                node_of_mesh_name(text, &org),
                Err(MeshNameError::NotOfTheMesh),
                "{text}"
            );
        }
    }

    #[test]
    fn labels_are_strict() {
        let check = |text: &str, expected: Result<(), NameError>| {
            assert_eq!(text.parse::<NodeName>().map(|_| ()), expected, "{text:?}");
        };
        check("a", Ok(()));
        check("my-mac-2", Ok(()));
        check(&"a".repeat(63), Ok(()));
        check(&"a".repeat(64), Err(NameError::TooLong(63)));
        check("", Err(NameError::Empty));
        for bad in ["-a", "a-", "A", "a.b", "a_b", "a b", "ä", "a\n", "a\"b", "a\0"] {
            check(bad, Err(NameError::NotALabel));
        }
    }

    #[test]
    fn the_nearest_label_is_always_a_label() {
        let check = |text: &str, expected: &str| {
            let name = NodeName::nearest(text, "device");
            assert_eq!(name.as_str(), expected);
            assert_eq!(name.as_str().parse::<NodeName>().as_ref(), Ok(&name));
        };
        check("Ada's MacBook Pro", "adas-macbook-pro");
        check("build-7.example.com", "build-7");
        check("日本", "device");
        check("--", "device");
        check(&"x-".repeat(60), &"x-".repeat(32)[..63]);
    }

    #[test]
    fn a_numbered_name_still_fits() {
        let long: NodeName = "a".repeat(63).parse().expect("label");
        assert_eq!(long.numbered(12).as_str(), format!("{}-12", "a".repeat(60)));
        let name: NodeName = "mac".parse().expect("label");
        assert_eq!(name.numbered(2).as_str(), "mac-2");
    }

    #[test]
    fn display_text_cannot_lie_or_run() {
        assert!("Ada's Mac 💻 <b>".parse::<DisplayText>().is_ok());
        for bad in ["", "  ", "a\nb", "a\u{202E}b", "a\u{200B}", "\u{1b}[2J", "a\u{0}"] {
            assert!(bad.parse::<DisplayText>().is_err(), "{bad:?}");
        }
        assert!("ä".repeat(128).parse::<DisplayText>().is_ok());
        assert!("ä".repeat(129).parse::<DisplayText>().is_err());
    }
}
