//! One connection carried over another: bytes as they come, each direction ended by itself, a cut passed on as a cut.

use std::io;

use net::MeshStream;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

/// What is read at once in each direction, in bytes: a reader that stalls holds up the writer with this much, the 256 KiB of a
/// stream's ring and TCP's own windows.
const BUFFER_BYTES: usize = 64 * 1024;

/// Carries bytes both ways until both ends have finished. An error at either end, or being dropped before the end, cuts
/// both: nobody takes half of something for the whole.
pub(super) async fn carry(local: TcpStream, mesh: MeshStream) -> io::Result<()> {
    let mut ends = Ends {
        local,
        mesh,
        is_carried: false,
    };
    copy_bidirectional_with_sizes(&mut ends.local, &mut ends.mesh, BUFFER_BYTES, BUFFER_BYTES).await?;
    ends.is_carried = true;
    Ok(())
}

struct Ends {
    local: TcpStream,
    mesh: MeshStream,
    /// Both directions came to their end.
    is_carried: bool,
}

impl Drop for Ends {
    fn drop(&mut self) {
        if !self.is_carried {
            self.mesh.reset();
            let _ = self.local.set_zero_linger();
        }
    }
}
