//! A look at one registry, for people: does each endpoint answer, and take the login?

use hawker_model::RegistryHost;
use http::{Method, StatusCode};
use url::Url;

use super::{
    By, Led, OriginClient, OriginError, Ours, Redirects, Refused, Wanted, challenge,
    endpoint::{Endpoint, Standing},
    error::shown,
    exchange::Answer,
    head,
    registries::Registry,
};

/// How one endpoint answers.
#[derive(Clone, Debug)]
pub struct EndpointReport {
    /// Where it is.
    pub url: String,
    /// What it says, in words, or why it says nothing of use.
    pub outcome: Result<String, OriginError>,
}

impl OriginClient {
    /// The registries of which something is configured, here or in `certs_d`.
    pub fn configured(&self) -> Vec<RegistryHost> {
        let all = self.0.registries.all().iter();
        all.map(|registry| registry.name.clone()).collect()
    }

    /// Asks every endpoint of a configured registry whether it is one, with the login that is
    /// configured. None of it is remembered.
    pub async fn inspect(&self, registry: &RegistryHost) -> Vec<EndpointReport> {
        let mut reports = Vec::new();
        let Some(registry) = self.0.registries.by_name(registry) else {
            return reports;
        };
        for endpoint in &self.0.registries.places(registry) {
            let mut api = endpoint.api().clone();
            api.set_path(&format!("{}/", api.path()));
            reports.push(EndpointReport {
                url: shown(&api),
                outcome: self.inspect_endpoint(registry, endpoint, api).await,
            });
        }
        reports
    }

    async fn inspect_endpoint(
        &self,
        registry: &Registry,
        endpoint: &Endpoint,
        api: Url,
    ) -> Result<String, OriginError> {
        let is_known = self.0.accounts.contains_key(&api.origin());
        let kind = match endpoint.standing {
            Standing::Own => "answers",
            Standing::Mirror => "answers as a mirror",
        };
        let wanted = Wanted {
            on_behalf: api.clone(),
            url: api,
            authorization: None,
            account: None,
            refused: Refused::MayBePublic,
            ours: Ours::Shown,
            by: By::Any,
        };
        let answer = match is_known {
            true => self.ask_api(&wanted, endpoint).await?,
            false => self.ask_plainly(&wanted, endpoint).await?,
        };
        match answer.status() {
            StatusCode::OK if is_known => Ok(format!("{kind}, and takes the login")),
            StatusCode::OK => Ok(kind.to_owned()),
            StatusCode::UNAUTHORIZED if !is_known => Ok(match schemes(&answer) {
                schemes if schemes.is_empty() => format!("{kind}, and wants a credential"),
                schemes => format!("{kind}, and wants a credential ({schemes})"),
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_known => {
                Err(OriginError::Token {
                    url: shown(&answer.url),
                    reason: format!(
                        "it refuses the login: correct username and password_file of \
                         registries.\"{}\"",
                        registry.name
                    ),
                })
            }
            _ => Err(answer.error()),
        }
    }

    async fn ask_plainly(
        &self,
        wanted: &Wanted,
        endpoint: &Endpoint,
    ) -> Result<Answer, OriginError> {
        self.follow(super::exchange::Ask {
            method: Method::GET,
            url: &wanted.url,
            on_behalf: &wanted.url,
            led: Led::ByNobody,
            headers: &head::headers(self),
            own_headers: &endpoint.headers,
            body: bytes::Bytes::new(),
            authorization: None,
            redirects: Redirects::Return,
            by: By::Any,
        })
        .await
    }

    async fn ask_api(&self, wanted: &Wanted, endpoint: &Endpoint) -> Result<Answer, OriginError> {
        let headers = head::headers(self);
        let own = &endpoint.headers;
        self.ask_there(Method::GET, wanted, &headers, own, Redirects::Return)
            .await
    }
}

/// The schemes of an answer's challenges.
fn schemes(answer: &Answer) -> String {
    let challenges = challenge::of_headers(answer.headers());
    let schemes: Vec<_> = challenges.iter().map(|c| c.scheme.as_str()).collect();
    schemes.join(", ")
}
