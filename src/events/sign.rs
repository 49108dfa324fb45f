//! How a body is signed, as Standard Webhooks has it: HMAC-SHA256 over id, time and body, so that a receiver knows that it is
//! ours, whole and new.

use data_encoding::BASE64;
use ring::hmac;

use crate::model::event::WebhookSecret;
use crate::model::id::EventId;

/// The header that names the event: the same each time it is told.
pub(super) const ID: &str = "webhook-id";
/// The header that says when it was sent, in seconds since 1970.
pub(super) const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signature.
pub(super) const SIGNATURE: &str = "webhook-signature";

/// The value of the signature's header.
pub(super) fn signature(secret: &WebhookSecret, id: EventId, timestamp: i64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.key());
    let tag = hmac::sign(&key, format!("{id}.{timestamp}.{body}").as_bytes());
    format!("v1,{}", BASE64.encode(tag.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked out with `openssl dgst -sha256 -mac HMAC`.
    #[test]
    fn a_signature_is_what_others_make_of_the_same() {
        let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".parse().unwrap();
        let id = "evt_0199a6b2f3e07c4d8a1b2c3d4e5f6071".parse().unwrap();
        let signed = signature(&secret, id, 1_614_265_330, r#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,7uf7F7G2ImV5/Vett2GnGCb7WFo+jsBQEjNwdUAoD0s=");
    }
}
