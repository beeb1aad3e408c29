//! TLS to a database server: version 1.3, its certificate under the CA that the configuration names, for its exact name.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Stream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};

use super::{Error, Login};

/// What makes a connection private.
#[derive(Clone)]
pub(super) struct Connector(Arc<ClientConfig>);

/// A connector by the files that the configuration names.
pub(super) fn connector(login: &Login) -> Result<Connector, Error> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &login.ca {
        let certificates = CertificateDer::pem_file_iter(path).map_err(|error| Error::file(path, &error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| Error::file(path, &error))?;
            roots.add(certificate).map_err(|error| Error::file(path, &error))?;
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| Error::Login(error.to_string()))?
        .with_root_certificates(roots);
    let mut config = match (&login.certificate, &login.key) {
        (Some(path), Some(key)) => {
            let chain = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
            let chain = chain.map_err(|error| Error::file(path, &error))?;
            let private = PrivateKeyDer::from_pem_file(key).map_err(|error| Error::file(key, &error))?;
            builder.with_client_auth_cert(chain, private).map_err(|error| Error::file(path, &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(Connector(Arc::new(config)))
}

/// One dial.
pub(super) struct Dial {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Connector {
    type Stream = Private<S>;
    type TlsConnect = Dial;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Dial> {
        let name = ServerName::try_from(domain.to_owned()).map_err(io::Error::other)?;
        Ok(Dial { config: Arc::clone(&self.0), name })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Dial {
    type Stream = Private<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Private<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { TlsConnector::from(self.config).connect(self.name, stream).await.map(Private) })
    }
}

/// A connection that is private.
pub(super) struct Private<S>(Stream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Private<S> {
    fn channel_binding(&self) -> ChannelBinding {
        // The server's certificate was checked by name under a CA of its own; nothing stands between.
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Private<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Private<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
