//! `kith healthcheck`: for images without a shell or a probe of their own.

use tonic::transport::Endpoint;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Failure, serve};
use crate::config::Healthcheck;

pub(super) async fn run(args: Healthcheck) -> Result<(), Failure> {
    let mut address = args.address;
    // A service that listens on every address is asked on this machine's own.
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() });
    }
    let answer = tokio::time::timeout(args.timeout, ask(format!("http://{address}"), args.service.clone()));
    match answer.await.map_err(|_| format!("{address} did not answer within {:?}", args.timeout))?? {
        ServingStatus::Serving => Ok(()),
        status @ (ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown) => {
            Err(format!("{address} says of {:?}: {}", args.service, status.as_str_name()).into())
        }
    }
}

async fn ask(url: String, service: String) -> Result<ServingStatus, Failure> {
    let channel = Endpoint::from_shared(url)?.connect().await.map_err(|error| serve::with_causes(&error))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest { service }).await;
    Ok(answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?.into_inner().status())
}
