//! A broker inside another program: started, used by a client over its socket, and stopped.
//!
//! Run it with `cargo run --example embedded`.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};

use fulmar::config::{Config, Engine, Listener};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Port 0: any that is free. Nothing on disk; everything else is as without a configuration file.
    let listener = Listener::tcp("embedded", SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let mut config = Config { listeners: vec![listener], ..Config::default() };
    config.store.engine = Engine::Memory;
    let broker = fulmar::server::start(config).await?;
    let address = broker.addresses().first().copied().ok_or("it listens nowhere")?;
    println!("a broker listens on {address}");

    // Any MQTT client can connect there now. This one says CONNECT and hears CONNACK, byte by byte.
    let mut client = TcpStream::connect(address).await?;
    client.write_all(b"\x10\x11\x00\x04MQTT\x04\x02\x00\x3c\x00\x05hello").await?;
    let mut connack = [0; 4];
    client.read_exact(&mut connack).await?;
    println!("a client was answered {connack:02x?}; {} is connected", broker.connections());
    client.write_all(b"\xe0\x00").await?;

    broker.stop().await;
    println!("and it has stopped");
    Ok(())
}
