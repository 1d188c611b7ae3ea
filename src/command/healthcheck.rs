//! `kith healthcheck`: queries the health of a server, for container images without another probe.

use std::path::Path;

use rustls::ClientConfig;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Failure, connect};
use crate::config::{Healthcheck, Sources};
use crate::tls::{read_certificates, read_key};

pub(super) async fn run(args: Healthcheck, sources: &Sources) -> Result<(), Failure> {
    let address = &args.address;
    // `kith serve` has the same variable and key for what it listens on.
    let setting = sources.name("listen");
    let tls = tls(&args, sources)?;
    let status = async {
        let channel = connect::channel(address, tls, &setting).await?;
        query(channel, args.service.clone()).await.map_err(|error| format!("{setting} {address}: {error}").into())
    };
    let status: Result<_, Failure> = tokio::time::timeout(args.timeout, status)
        .await
        .map_err(|_| format!("{setting} {address}: no response within {:?}", args.timeout))?;
    match status? {
        ServingStatus::Serving => Ok(()),
        status @ (ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown) => {
            Err(format!("{setting} {address}: service {:?} is {}", args.service, status.as_str_name()).into())
        }
    }
}

/// Returns how to connect with TLS, if the server has it.
///
/// In the server's container the settings are the server's own. Then the certificate is not verified: the server may
/// still use the one before, and what it says is no secret.
fn tls(args: &Healthcheck, sources: &Sources) -> Result<Option<ClientConfig>, Failure> {
    let tls = match connect::verified(&args.address, args.tls_ca.as_deref(), sources)? {
        Some(tls) => tls,
        None if args.tls_certificate.is_some() => connect::any_certificate()?,
        None => return Ok(None),
    };
    let (Some(certificate), Some(key)) = (&args.tls_certificate, &args.tls_key) else {
        return Ok(Some(tls.with_no_client_auth()));
    };
    let of = |key: &str, path: &Path| {
        let setting = format!("{} {}", sources.name(key), path.display());
        move |error: String| format!("{setting}: {error}")
    };
    let chain = read_certificates(certificate).map_err(of("tls-certificate", certificate))?;
    let private = read_key(key).map_err(of("tls-key", key))?;
    let config = tls.with_client_auth_cert(chain, private).map_err(|error| error.to_string());
    Ok(Some(config.map_err(of("tls-key", key))?))
}

async fn query(channel: Channel, service: String) -> Result<ServingStatus, String> {
    let response = HealthClient::new(channel).check(HealthCheckRequest { service: service.clone() }).await;
    let response =
        response.map_err(|status| format!("service {service:?}: {:?}: {}", status.code(), status.message()))?;
    Ok(response.into_inner().status())
}
