//! Runs the stand-in model as a process: `stand-in-model [ADDRESS]`, by default on a free port of 127.0.0.1.
//!
//! The first line on stdout is its base URL. It ends when its stdin does, so that it cannot outlive who started it.

use anyhow::{Context, Result};
use e2e::stand_in_model::StandInModel;

#[tokio::main]
async fn main() -> Result<()> {
    let listen = std::env::args()
        .nth(1)
        .unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let model = StandInModel::start(listen.parse().context("read the address to listen on")?).await?;
    println!("{}", model.base_url());
    // Reading stdin blocks, so it has a thread of its own.
    let ended = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()));
    ended.await.context("wait for stdin to end")??;
    Ok(())
}
