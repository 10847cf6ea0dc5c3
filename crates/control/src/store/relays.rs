//! The relays that netmaps named last.

use types::RelayRecord;

use super::row::json_of;
use super::{Conn, RowExt as _, StoreError};

/// Takes the relays that netmaps name from now on; tells whether they are others than before.
pub(crate) async fn replace(conn: &mut Conn, records: &[RelayRecord]) -> Result<bool, StoreError> {
    let rows = sqlx::query("SELECT record FROM relays ORDER BY id")
        .fetch_all(&mut *conn)
        .await?;
    let before = rows.iter().map(|row| row.text("record"));
    let before = before.collect::<Result<Vec<_>, _>>()?;
    let mut now: Vec<_> = records
        .iter()
        .map(|record| (record.id.to_string(), json_of(record)))
        .collect();
    now.sort_unstable();
    if before.iter().eq(now.iter().map(|(_, record)| record)) {
        return Ok(false);
    }
    sqlx::query("DELETE FROM relays").execute(&mut *conn).await?;
    for (id, record) in now {
        sqlx::query("INSERT INTO relays (id, record) VALUES ($1, $2)")
            .bind(id)
            .bind(record)
            .execute(&mut *conn)
            .await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use types::{NodePrivateKey, RelayId, RelayRecord};

    use super::super::tests::stores;
    use super::replace;

    fn relay(seed: u8, port: u16) -> RelayRecord {
        RelayRecord {
            id: RelayId(NodePrivateKey::from_random([seed; 32]).public()),
            name: "home".parse().expect("a label"),
            endpoints: vec![format!("192.0.2.1:{port}")],
            url: None,
            stun_endpoints: Vec::new(),
        }
    }

    #[tokio::test]
    async fn relays_are_news_when_one_came_went_or_moved() {
        for (store, _dir) in stores().await {
            let mut tx = store.write().await.expect("a write");
            let (one, other) = (relay(1, 1), relay(2, 1));
            for (records, is_news) in [
                (vec![], false),
                (vec![one.clone(), other.clone()], true),
                (vec![other.clone(), one.clone()], false),
                (vec![one.clone(), relay(2, 3)], true),
                (vec![one.clone()], true),
                (vec![one], false),
            ] {
                let replaced = replace(&mut tx, &records).await.expect("stored");
                assert_eq!(replaced, is_news, "{records:?}");
            }
        }
    }
}
