//! `kith healthcheck`: queries the health of a server, for container images without another probe.

use std::net::SocketAddr;

use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::Failure;
use crate::config::Healthcheck;
use crate::store::with_causes;

pub(super) async fn run(args: Healthcheck) -> Result<(), Failure> {
    let mut address = args.address;
    // A server that listens on all addresses also listens on the loopback address.
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let status = tokio::time::timeout(args.timeout, query(address, args.service.clone()));
    match status.await.map_err(|_| format!("--address {address}: no response within {:?}", args.timeout))?? {
        ServingStatus::Serving => Ok(()),
        status @ (ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown) => {
            Err(format!("--address {address}: service {:?} is {}", args.service, status.as_str_name()).into())
        }
    }
}

async fn query(address: SocketAddr, service: String) -> Result<ServingStatus, Failure> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await;
    let channel = channel.map_err(|error| format!("--address {address}: cannot connect: {}", with_causes(&error)))?;
    let response = HealthClient::new(channel).check(HealthCheckRequest { service: service.clone() }).await;
    let response = response.map_err(|status| {
        format!("--address {address}: service {service:?}: {:?}: {}", status.code(), status.message())
    })?;
    Ok(response.into_inner().status())
}
