//! A link to a server that can be blocked, as a network is: bytes are held up, nobody is told. Once it is open again, what
//! was held up arrives late.
#![allow(dead_code, reason = "each test binary uses a part of this file")]
#![allow(clippy::expect_used, reason = "a failure is the test's verdict")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;

/// The link. Its threads end when both ends of each connection have closed, or with the process.
pub(crate) struct Link {
    address: SocketAddr,
    gate: Arc<Gate>,
    closed: Arc<AtomicBool>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

#[derive(Default)]
struct Gate {
    blocked: Mutex<bool>,
    opened: Condvar,
}

impl Link {
    /// A link to this address, open.
    pub(crate) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (gate, closed) = (Arc::<Gate>::default(), Arc::<AtomicBool>::default());
        let (shared, ended) = (Arc::clone(&gate), Arc::clone(&closed));
        let connections = Arc::<Mutex<Vec<TcpStream>>>::default();
        let known = Arc::clone(&connections);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                let known = &mut known.lock().unwrap_or_else(PoisonError::into_inner);
                known.extend([&stream, &upstream].map(|end| end.try_clone().expect("a handle")));
                for (from, to) in [(&stream, &upstream), (&upstream, &stream)] {
                    let (from, to) = (from.try_clone().expect("a handle"), to.try_clone().expect("a handle"));
                    let gate = Arc::clone(&shared);
                    thread::spawn(move || pump(from, to, &gate));
                }
            }
        });
        Self { address, gate, closed, connections }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn block(&self) {
        *self.gate.blocked.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Ends every connection; new ones can be made.
    pub(crate) fn cut(&self) {
        for end in self.connections.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may have ended by itself.
            let _ = end.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn open(&self) {
        *self.gate.blocked.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.gate.opened.notify_all();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        self.open();
        // Wakes the listener, which sees that it is over.
        let _ = TcpStream::connect(self.address);
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, gate: &Gate) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let mut blocked = gate.blocked.lock().unwrap_or_else(PoisonError::into_inner);
        while *blocked {
            blocked = gate.opened.wait(blocked).unwrap_or_else(PoisonError::into_inner);
        }
        drop(blocked);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
