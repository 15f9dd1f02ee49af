//! Names to addresses: those that an operator wrote, else the system's; of the latter only those
//! that may be asked.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    vec,
};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower::Service;

use super::{
    address::{AddressRefused, AddressRule},
    dialer::{BoxError, Connecting, Hosts},
};

/// Resolves names.
#[derive(Clone)]
pub(super) struct Names {
    /// `None`: an operator named the host, which may be anywhere.
    rule: Option<Arc<AddressRule>>,
    hosts: Hosts,
    system: GaiResolver,
}

/// A name has no address.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the name {host} does not resolve ({reason})")]
pub(super) struct NoAddress {
    pub(super) host: String,
    pub(super) reason: String,
}

impl Names {
    pub(super) fn new(rule: Option<Arc<AddressRule>>, hosts: Hosts) -> Self {
        Self {
            rule,
            hosts,
            system: GaiResolver::new(),
        }
    }
}

impl Service<Name> for Names {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = BoxError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let host = name.as_str().to_owned();
        if let Some(written) = self.hosts.get(&host.to_ascii_lowercase()) {
            let written: Vec<_> = written.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
            return Box::pin(async move { Ok(written.into_iter()) });
        }
        let rule = self.rule.clone();
        let resolving = self.system.call(name);
        Box::pin(async move {
            let failed = |reason: String| NoAddress {
                host: host.clone(),
                reason,
            };
            let found = resolving.await.map_err(|error| failed(error.to_string()))?;
            let all: Vec<SocketAddr> = found.collect();
            match rule {
                None if all.is_empty() => Err(failed("it has no address".to_owned()).into()),
                None => Ok(all.into_iter()),
                Some(rule) => permitted(&rule, &host, all),
            }
        })
    }
}

/// Those of a name's addresses that may be asked. One that may not is left out, not tried, and
/// where no other is left the name is refused.
fn permitted(
    rule: &AddressRule,
    host: &str,
    all: Vec<SocketAddr>,
) -> Result<vec::IntoIter<SocketAddr>, BoxError> {
    let first = all.first().map(SocketAddr::ip);
    let mut permitted = all;
    permitted.retain(|address| rule.permits(address.ip()));
    match (permitted.is_empty(), first) {
        (false, _) => Ok(permitted.into_iter()),
        (true, Some(first)) => Err(refused(host, first).into()),
        (true, None) => Err(NoAddress {
            host: host.to_owned(),
            reason: "it has no address".to_owned(),
        }
        .into()),
    }
}

fn refused(host: &str, address: IpAddr) -> AddressRefused {
    AddressRefused {
        host: host.to_owned(),
        address: address.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolve(rule: AddressRule) -> Result<Vec<SocketAddr>, BoxError> {
        let mut names = Names::new(Some(Arc::new(rule)), Hosts::default());
        Ok(names.call("localhost".parse().unwrap()).await?.collect())
    }

    #[tokio::test]
    async fn names_that_resolve_to_private_addresses_do_not_resolve() {
        let error = resolve(AddressRule::default()).await.unwrap_err();
        assert!(error.downcast_ref::<AddressRefused>().is_some(), "{error}");

        let allowed = ["127.0.0.0/8".parse().unwrap()];
        let addresses = resolve(AddressRule::new(&allowed, [].into_iter()))
            .await
            .unwrap();
        assert!(
            addresses.iter().all(|address| address.ip().is_loopback()),
            "{addresses:?}"
        );
        assert!(!addresses.is_empty());
    }

    #[test]
    fn of_several_addresses_the_private_ones_are_never_tried() {
        let of = |all: &[&str]| {
            let all = all.iter().map(|text| text.parse().unwrap()).collect();
            permitted(&AddressRule::default(), "h", all).map(Iterator::collect::<Vec<_>>)
        };
        let mixed = of(&[
            "10.0.0.1:0",
            "8.8.8.8:0",
            "169.254.169.254:0",
            "[fe80::1%3]:0",
        ]);
        assert_eq!(mixed.unwrap(), ["8.8.8.8:0".parse().unwrap()]);
        let error = of(&["10.0.0.1:0", "[fe80::1%3]:0", "[::ffff:127.0.0.1]:0"]).unwrap_err();
        assert!(error.downcast_ref::<AddressRefused>().is_some(), "{error}");
        let error = of(&[]).unwrap_err();
        assert!(error.downcast_ref::<NoAddress>().is_some(), "{error}");
    }

    #[tokio::test]
    async fn addresses_that_are_written_win_over_the_systems() {
        let written = [("localhost".to_owned(), vec!["192.0.2.7".parse().unwrap()])];
        let mut names = Names::new(None, Arc::new(written.into()));
        let found = names.call("LOCALHOST".parse().unwrap()).await.unwrap();
        assert_eq!(found.collect::<Vec<_>>(), ["192.0.2.7:0".parse().unwrap()]);
    }
}
