//! A real RabbitMQ, started for the tests on ports and in a directory of its own.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

/// The largest message that it takes.
pub(crate) const MESSAGE_BYTES_MAX: usize = 100_000;
/// How long a broker may take to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);
/// Where the script lies that starts one in the foreground, without changing the user.
const PLACES: [&str; 3] = ["/usr/lib/rabbitmq/bin", "/usr/local/sbin", "/opt/rabbitmq/sbin"];

/// Returns the script that starts a broker, if this machine has one.
pub(crate) fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let epmd = std::env::split_paths(&path).any(|dir| dir.join("epmd").exists());
    let places = PLACES.iter().map(|place| Path::new(place).join("rabbitmq-server"));
    places.into_iter().find(|script| epmd && script.exists())
}

/// A broker, killed when it is dropped.
pub(crate) struct Broker {
    script: PathBuf,
    dir: TempDir,
    port: u16,
    dist_port: u16,
    epmd_port: u16,
    epmd: Child,
    server: Option<Child>,
}

impl Broker {
    /// Starts a broker and waits until it answers.
    pub(crate) fn start(script: PathBuf) -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        // No plugins, and no configuration of the machine's.
        fs::write(dir.path().join("enabled_plugins"), "[].")?;
        let limit = format!("max_message_size = {MESSAGE_BYTES_MAX}\n");
        fs::write(dir.path().join("rabbitmq.conf"), limit)?;
        let [port, dist_port, epmd_port] = free_ports()?;
        let epmd = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &epmd_port.to_string()])
            .stdin(Stdio::null())
            .spawn()?;
        let mut broker = Self { script, dir, port, dist_port, epmd_port, epmd, server: None };
        broker.restart()?;
        Ok(broker)
    }

    /// Returns where it listens.
    pub(crate) fn uri(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.port)
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            // The script and the runtime that it started.
            if let Some(group) = Pid::from_raw(server.id().cast_signed()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = server.wait();
        }
    }

    /// Starts it over what it had on disk, and waits until it answers.
    pub(crate) fn restart(&mut self) -> io::Result<()> {
        self.kill();
        let dir = self.dir.path();
        let output = dir.join("output");
        let log = File::create(&output)?;
        let server = Command::new(&self.script)
            .env("HOME", dir)
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("ERL_EPMD_PORT", self.epmd_port.to_string())
            .env("RABBITMQ_CONFIG_FILE", dir.join("rabbitmq.conf"))
            .env("RABBITMQ_DIST_PORT", self.dist_port.to_string())
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", dir.join("enabled_plugins"))
            .env("RABBITMQ_LOG_BASE", dir.join("log"))
            .env("RABBITMQ_MNESIA_BASE", dir.join("mnesia"))
            .env("RABBITMQ_NODENAME", format!("headwater{}@localhost", self.port))
            .env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODE_PORT", self.port.to_string())
            .env("RABBITMQ_PID_FILE", dir.join("pid"))
            .env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS",
                "-start_epmd false -kernel inet_dist_use_interface {127,0,0,1}",
            )
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()?;
        self.server = Some(server);
        self.wait_until_it_answers(&output)
    }

    /// A broker answers what is no AMQP with the version that it speaks.
    fn wait_until_it_answers(&mut self, output: &Path) -> io::Result<()> {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let over = match &mut self.server {
                Some(server) => server.try_wait()?.is_some(),
                None => true,
            };
            if over {
                break;
            }
            if greets(self.port).is_ok() {
                return Ok(());
            }
            // Of another process there is nothing to wait for but time.
            std::thread::sleep(Duration::from_millis(50));
        }
        let said = fs::read_to_string(output).unwrap_or_default();
        Err(io::Error::other(format!("the broker did not start:\n{said}")))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

fn greets(port: u16) -> io::Result<()> {
    use std::io::Write;

    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"AMQP\0\0\0\0")?;
    let mut greeting = [0; 8];
    stream.read_exact(&mut greeting)?;
    if greeting == *b"AMQP\0\0\x09\x01" { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let listeners: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<_, _>>()?;
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(&listeners) {
        *port = listener.local_addr()?.port();
    }
    Ok(ports)
}
