//! A way to the broker that can lose an EndTxn on the road, and deliver it much later.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::world::LIMIT;

/// Ends a transaction; the key of Kafka's protocol.
const END_TXN: [u8; 2] = 26_i16.to_be_bytes();

pub struct Proxy {
    armed: Arc<AtomicBool>,
    held: Mutex<Receiver<Held>>,
}

/// An EndTxn that the broker has not seen yet, and its connection.
pub struct Held {
    frame: Vec<u8>,
    broker: TcpStream,
    answers: Receiver<()>,
}

impl Held {
    /// Lets the broker see it now, and waits until it has answered.
    pub fn release(mut self) {
        while self.answers.try_recv().is_ok() {}
        self.broker.write_all(&self.frame).unwrap();
        self.answers.recv_timeout(LIMIT).unwrap();
    }
}

impl Proxy {
    /// Listens on `port` and hands everything on to `to`.
    pub fn start(port: u16, to: u16) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let armed = Arc::new(AtomicBool::new(false));
        let (tell, held) = channel();
        thread::spawn({
            let armed = Arc::clone(&armed);
            move || {
                for client in listener.incoming().map_while(Result::ok) {
                    let Ok(broker) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                    let (armed, tell) = (Arc::clone(&armed), tell.clone());
                    let (from, to) = (broker.try_clone().unwrap(), client.try_clone().unwrap());
                    let (answered, answers) = channel();
                    thread::spawn(move || requests(client, broker, &armed, &tell, answers));
                    thread::spawn(move || responses(from, to, &answered));
                }
            }
        });
        Proxy { armed, held: Mutex::new(held) }
    }

    /// Holds the next EndTxn back.
    pub fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }

    /// The EndTxn that was held back.
    pub fn held(&self) -> Held {
        self.held.lock().unwrap().recv().unwrap()
    }
}

/// Hands requests on, one frame at a time.
fn requests(
    mut client: TcpStream,
    mut broker: TcpStream,
    armed: &AtomicBool,
    tell: &Sender<Held>,
    answers: Receiver<()>,
) {
    let (mut length, mut answers) = ([0; 4], Some(answers));
    while client.read_exact(&mut length).is_ok() {
        let mut frame = length.to_vec();
        frame.resize(4 + u32::from_be_bytes(length) as usize, 0);
        if client.read_exact(&mut frame[4..]).is_err() {
            return;
        }
        if frame[4..6] == END_TXN && armed.swap(false, Ordering::SeqCst) {
            let broker = broker.try_clone().unwrap();
            let answers = answers.take().unwrap();
            // Nobody may want it, when a test is over.
            let _ = tell.send(Held { frame, broker, answers });
        } else if broker.write_all(&frame).is_err() {
            return;
        }
    }
}

/// Hands responses back, also when the client is gone: the broker goes on with what it was sent.
fn responses(mut broker: TcpStream, mut client: TcpStream, answered: &Sender<()>) {
    let mut buffer = [0; 65536];
    while let Ok(length @ 1..) = broker.read(&mut buffer) {
        let _ = client.write_all(&buffer[..length]);
        let _ = answered.send(());
    }
    let _ = client.shutdown(Shutdown::Both);
}
