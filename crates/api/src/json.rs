//! Reads JSON as JSON Schema means it, where serde means something else.
//!
//! Serde takes a list for an object, its fields in their order: `[null, true]` would archive a thread. And it takes no
//! `59.0` for a whole number, which in JSON it is.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// What was read from an object, and from no list in its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Strict<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Object(PhantomData).deserialize(deserializer).map(Self)
    }
}

/// Reads an object, or null for none.
pub(crate) fn maybe_object<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    deserializer.deserialize_option(Maybe(Object(PhantomData)))
}

/// Reads a list of objects.
pub(crate) fn objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    Objects(PhantomData).deserialize(deserializer)
}

/// The same; null is none.
pub(crate) fn maybe_objects<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Vec<T>>, D::Error> {
    deserializer.deserialize_option(Maybe(Objects(PhantomData)))
}

/// Reads a whole number of 32 bits, however it is written; null is none.
pub(crate) fn maybe_whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    deserializer.deserialize_option(Maybe(Whole))
}

struct Object<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Object<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

struct Objects<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Objects<T> {
    type Value = Vec<T>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Objects<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
        let mut objects = Vec::new();
        while let Some(object) = list.next_element_seed(Object(PhantomData))? {
            objects.push(object);
        }
        Ok(objects)
    }
}

struct Whole;

impl<'de> DeserializeSeed<'de> for Whole {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Whole {
    type Value = u32;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number from 0 to 4294967295")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
        let fits = u32::try_from(number);
        fits.map_err(|_| E::invalid_value(serde::de::Unexpected::Unsigned(number), &self))
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the number is whole and in range"
    )]
    fn visit_f64<E: Error>(self, number: f64) -> Result<u32, E> {
        if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
            Ok(number as u32)
        } else {
            Err(E::invalid_value(serde::de::Unexpected::Float(number), &self))
        }
    }
}

/// What `T` reads, or null.
struct Maybe<T>(T);

impl<'de, T: DeserializeSeed<'de>> Visitor<'de> for Maybe<T> {
    type Value = Option<T::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        self.0.deserialize(deserializer).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_str, from_value, json};

    use crate::agents::{AgentSettings, PutAgent};
    use crate::events::AppendEvents;
    use crate::runs::StartRun;

    #[test]
    fn a_list_is_no_object_however_deep() {
        for bad in [
            json!({"prompt": "x", "config": [1, 2, 0.5]}),
            json!({"messages": [["user", "x"]]}),
            json!({"messages": {"role": "user", "content": "x"}}),
        ] {
            assert!(from_value::<StartRun>(bad.clone()).is_err(), "{bad}");
            assert!(from_str::<StartRun>(&bad.to_string()).is_err(), "{bad}");
        }
        for bad in [
            json!({"slug": "a", "resources": [["repo", "r"]]}),
            json!({"slug": "a", "runner": ["acp", "goose"]}),
        ] {
            assert!(from_value::<PutAgent>(bad.clone()).is_err(), "{bad}");
            assert!(from_value::<AgentSettings>(bad.clone()).is_err(), "{bad}");
        }
        assert!(from_value::<AppendEvents>(json!({"events": [["user_message", {}]]})).is_err());
        let run = json!({"messages": [{"role": "user", "content": "x"}], "config": {"maxTurns": 3}});
        let run: StartRun = from_value(run).expect("as it should be");
        assert_eq!(run.config.and_then(|config| config.max_turns), Some(3));
    }

    #[test]
    fn a_whole_number_may_be_written_with_a_point() {
        let read = |number: &str| {
            let text = format!("{{\"slug\":\"a\",\"maxTokens\":{number}}}");
            from_str::<PutAgent>(&text).map(|agent| agent.settings.max_tokens)
        };
        for (number, whole) in [
            ("59", 59),
            ("59.0", 59),
            ("5.9e1", 59),
            ("4294967295.0", u32::MAX),
        ] {
            assert_eq!(read(number).expect(number), Some(whole));
        }
        assert_eq!(read("null").expect("none"), None);
        for bad in [
            "59.5",
            "-1",
            "-1.0",
            "4294967296",
            "4294967296.0",
            "1e300",
            "true",
            "\"1\"",
            "[1]",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
