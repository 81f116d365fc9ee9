//! Verification of the other side's certificate: its identity picks the CA, and that CA must have signed the identity.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};

use super::{Accept, PeerId, Tls};

fn not_for_us() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}

/// Who is let into a server, by the certificate that they show.
pub trait Clients: std::fmt::Debug + Send + Sync {
    /// Verifies that it is one of them; that they hold its key is verified besides.
    ///
    /// # Errors
    /// When it is not.
    fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error>;
}

/// The services of a region, and of its peers where those are accepted.
#[derive(Debug)]
pub(super) struct Services {
    pub(super) tls: Tls,
    pub(super) accept: Accept,
}

impl Clients for Services {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let claimed = PeerId::of_certificate(end_entity).map_err(|_| not_for_us())?;
        let peers = self.accept == Accept::PeerRegions;
        // The claimed region picks the CA, and that CA must then have signed the claim.
        let verifier = self
            .tls
            .anchors(&claimed.region, peers, |anchors| Arc::clone(&anchors.clients));
        verifier
            .ok_or_else(not_for_us)?
            .verify_client_cert(end_entity, intermediates, now)
    }
}

#[derive(Debug)]
pub(super) struct ClientVerifier {
    pub(super) clients: Arc<dyn Clients>,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.clients.verify(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[derive(Debug)]
pub(super) struct ServerVerifier {
    pub(super) tls: Tls,
    pub(super) expected: PeerId,
    pub(super) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let claimed = PeerId::of_certificate(end_entity).map_err(|_| not_for_us())?;
        if claimed != self.expected {
            return Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName));
        }
        let roots = self
            .tls
            .anchors(&claimed.region, true, |anchors| Arc::clone(&anchors.roots));
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let roots = roots.ok_or_else(not_for_us)?;
        let all = self.algorithms.all;
        rustls::client::verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, all)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
