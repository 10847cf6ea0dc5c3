//! Against wireguard-go, a real process with a real TUN device.

use std::net::UdpSocket;

use anyhow::ensure;

use crate::lab::lab;
use crate::ours::{Loop, PSK, SECOND};

#[test]
fn wireguard_go_answers_our_handshake_and_survives_our_rekey() -> anyhow::Result<()> {
    let Some(mut lab) = lab(0)? else {
        return Ok(());
    };
    let socket = UdpSocket::bind((lab.our_place, 0))?;
    lab.start(None)?;
    let mut ours = Loop::new(socket, Some(PSK), Some(lab.their_place))?;
    ours.ping(b"\0\x01\0\x01first")?;
    ours.ping(&[b"\0\x01\0\x02".as_slice(), &[7; 1380]].concat())?;
    assert_eq!(ours.ours.tunnel.counters().handshakes, 1);
    // Our clocks leap to where the session is due for renewal; theirs do not.
    ours.ahead = 121 * SECOND;
    ours.ping(b"\0\x01\0\x03old session")?;
    ours.turn_until("a new session", |this| {
        Ok(this.ours.tunnel.counters().handshakes == 2)
    })?;
    ours.ping(b"\0\x01\0\x04new session")?;
    assert_eq!(ours.ours.dropped(), []);
    Ok(())
}

#[test]
fn we_answer_the_handshake_of_wireguard_go() -> anyhow::Result<()> {
    let Some(mut lab) = lab(1)? else {
        return Ok(());
    };
    let socket = UdpSocket::bind((lab.our_place, 0))?;
    lab.start(Some(socket.local_addr()?))?;
    // We do not know where it is until it comes.
    let mut ours = Loop::new(socket, Some(PSK), None)?;
    let mut ping = lab.ping("-c 50 -i 0.01 -s 1300")?;
    ours.turn_until("fifty pings", |_| Ok(ping.try_wait()?.is_some()))?;
    let output = ping.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.contains(" 50 received"), "{said}");
    assert_eq!(ours.ours.dropped(), []);
    ours.ping(b"\0\x01\0\x01and back")?;
    Ok(())
}
