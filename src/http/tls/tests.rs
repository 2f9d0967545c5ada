use std::path::PathBuf;

use rcgen::{CertificateParams, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::*;

/// A certificate for `localhost` that ends in the given year, and its key.
fn pair(year: i32) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(year, 1, 2);
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

/// A directory that goes with the test.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("vao-tls-{}", crate::token::fresh_jti()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn files(&self) -> TlsFiles {
        TlsFiles { cert: self.0.join("tls.crt"), key: self.0.join("tls.key") }
    }

    fn write(&self, (cert, key): (&str, &str)) -> TlsFiles {
        let files = self.files();
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        files
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn year(year: i64) -> Instant {
    format!("{year}-01-02T00:00:00Z").parse().unwrap()
}

#[test]
fn a_pair_is_read_with_its_end_and_whatever_stands_around_it() {
    let dir = Dir::new();
    let ((leaf, key), (issuer, _)) = (pair(2090), pair(2091));
    let chain = format!("# of the proxy\n{leaf}\n{issuer}");
    let certificate = Certificate::load(dir.write((&chain, &format!("{key}\n")))).unwrap();
    assert_eq!(certificate.expires_at(), year(2090));
    assert_eq!(lock(&certificate.served).key.cert.len(), 2);
}

#[test]
fn what_rustls_can_serve_is_served_however_odd() {
    let dir = Dir::new();
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2090, 1, 2);
    // RFC 5280 allows 20 bytes.
    params.serial_number = Some(vec![0x7f; 21].into());
    let cert = params.self_signed(&key).unwrap().pem();
    let certificate = Certificate::load(dir.write((&cert, &key.serialize_pem()))).unwrap();
    assert_eq!(certificate.expires_at(), year(2090));
}

#[test]
fn each_mistake_names_flag_file_and_cure_and_shows_no_content() {
    let ((cert, key), (_, other)) = (pair(2090), pair(2090));
    let half = &cert[..cert.len() / 2];
    let half_key = &key[..key.len() / 2];
    let nonsense = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (files, flag, cure) in [
        ((&*cert, &*other), "--tls-key", "is not the key of the first certificate in --tls-cert"),
        (("", &*key), "--tls-cert", "holds no certificate"),
        ((half, &*key), "--tls-cert", "ends in the middle of it"),
        ((&*key, &*key), "--tls-cert", "holds no certificate"),
        ((nonsense, &*key), "--tls-cert", "no X.509 certificate"),
        ((&*cert, ""), "--tls-key", "holds no private key"),
        ((&*cert, half_key), "--tls-key", "holds no private key"),
        ((&*cert, &*cert), "--tls-key", "holds no private key"),
    ] {
        let dir = Dir::new();
        let error = Certificate::load(dir.write(files)).unwrap_err();
        let (text, name) = (error.to_string(), if flag == CERT { "tls.crt" } else { "tls.key" });
        assert!(text.contains(flag) && text.contains(name) && text.contains(cure), "{text}");
        let lines = [&*key, &*other, &*cert].map(|pem| pem.lines().nth(1).unwrap());
        assert!(!lines.iter().any(|line| format!("{error:?} {error}").contains(line)), "{text}");
    }
    let dir = Dir::new();
    let error = Certificate::load(dir.files()).unwrap_err().to_string();
    assert!(error.starts_with("cannot read --tls-cert ") && error.contains("No such file"), "{error}");
}

#[test]
fn a_renewed_pair_is_served_and_an_equal_one_is_no_news() {
    let dir = Dir::new();
    let (old, new) = (pair(2090), pair(2095));
    let certificate = Certificate::load(dir.write((&old.0, &old.1))).unwrap();
    let mut complaint = Complaint::default();
    let mut look = || certificate.take(Pair::read(&dir.files()), &mut complaint);
    assert_eq!(look(), Look::Quiet);
    dir.write((&new.0, &new.1));
    assert_eq!(look(), Look::Renewed(year(2095)));
    assert_eq!(look(), Look::Quiet);
    assert_eq!(certificate.expires_at(), year(2095));
}

#[test]
fn a_broken_renewal_keeps_the_old_pair_and_is_told_once() {
    let dir = Dir::new();
    let (old, new) = (pair(2090), pair(2095));
    let certificate = Certificate::load(dir.write((&old.0, &old.1))).unwrap();
    let mut complaint = Complaint::default();
    let mut look = || certificate.take(Pair::read(&dir.files()), &mut complaint);

    dir.write((&new.0, &old.1));
    assert_eq!(look(), Look::Quiet, "the second file may be under way");
    let Look::Broken(error) = look() else { panic!("it is told at the second look") };
    assert!(error.to_string().contains("is not the key of"), "{error}");
    assert_eq!(look(), Look::Quiet);

    std::fs::remove_file(dir.files().key).unwrap();
    assert_eq!(look(), Look::Quiet);
    assert!(matches!(look(), Look::Broken(TlsError::Read { flag: "--tls-key", .. })), "another error is news");
    assert_eq!(certificate.expires_at(), year(2090));

    dir.write((&new.0, &new.1));
    assert_eq!(look(), Look::Renewed(year(2095)));
}

#[test]
fn two_files_written_one_after_the_other_are_no_complaint() {
    let dir = Dir::new();
    let (old, new) = (pair(2090), pair(2095));
    let certificate = Certificate::load(dir.write((&old.0, &old.1))).unwrap();
    let mut complaint = Complaint::default();
    let mut look = || certificate.take(Pair::read(&dir.files()), &mut complaint);
    dir.write((&new.0, &old.1));
    assert_eq!(look(), Look::Quiet);
    dir.write((&new.0, &new.1));
    assert_eq!(look(), Look::Renewed(year(2095)));
    dir.write((&old.0, &new.1));
    assert_eq!(look(), Look::Quiet, "what was found before the renewal is forgotten");
}

#[tokio::test]
async fn a_handshake_gets_the_certificate_of_its_moment() {
    let dir = Dir::new();
    let (old, new) = (pair(2090), pair(2095));
    let certificate = Certificate::load(dir.write((&old.0, &old.1))).unwrap();
    let config = certificate.server_config().unwrap();
    for pair in [old, new] {
        let read = Pair::read(&dir.write((&pair.0, &pair.1)));
        certificate.take(read, &mut Complaint::default());
        let leaf = CertificateDer::from_pem_slice(pair.0.as_bytes()).unwrap();
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            assert_eq!(shown(&config, &pair.0, version).await, leaf);
        }
    }
}

/// What a client that trusts this certificate alone and speaks this version alone is shown; HTTP/2 is agreed on.
async fn shown(
    config: &Arc<ServerConfig>,
    trusted: &str,
    version: &'static rustls::SupportedProtocolVersion,
) -> CertificateDer<'static> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::clone(config));
    let server = tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await.unwrap() });

    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let mut client =
        builder.with_protocol_versions(&[version]).unwrap().with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let stream = TlsConnector::from(Arc::new(client)).connect("localhost".try_into().unwrap(), stream).await.unwrap();
    let (_, session) = stream.get_ref();
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    server.await.unwrap();
    session.peer_certificates().unwrap()[0].clone().into_owned()
}
