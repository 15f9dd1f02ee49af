//! What must hold for any call of `Apply`.

use containerd_client::services::v1::ApplyRequest;
use tonic_prost::prost::Message as _;

use super::order::Order;

/// Bytes as a request: what is done here is for one mount, of the layer that is named.
pub fn apply_request(bytes: &[u8]) {
    let Ok(request) = ApplyRequest::decode(bytes) else {
        return;
    };
    match Order::parse(&request) {
        Ok(order) => {
            let named = request.diff.map(|layer| layer.digest);
            assert_eq!(Some(order.layer.to_string()), named);
            assert_eq!(request.mounts.len(), 1);
            assert!(request.mounts[0].target.is_empty());
        }
        Err(unsuited) => assert!(!unsuited.to_string().is_empty()),
    }
}
