//! Why a container is not started, in kubelet's words, and when it is tried again.

use jiff::SignedDuration;

/// The `reason` of a container that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFailure {
    InvalidImageName,
    ImageInspectError,
    ErrImageNeverPull,
    /// Shown for a moment; then it is a back-off.
    ErrImagePull,
    ImagePullBackOff,
    CreateContainerConfigError,
    CreateContainerError,
    RunContainerError,
}

impl StartFailure {
    /// As the status spells it.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::InvalidImageName => "InvalidImageName",
            Self::ImageInspectError => "ImageInspectError",
            Self::ErrImageNeverPull => "ErrImageNeverPull",
            Self::ErrImagePull => "ErrImagePull",
            Self::ImagePullBackOff => "ImagePullBackOff",
            Self::CreateContainerConfigError => "CreateContainerConfigError",
            Self::CreateContainerError => "CreateContainerError",
            Self::RunContainerError => "RunContainerError",
        }
    }

    /// How long until the next attempt. An image's own back-off is longer, and says so ([`crate::image`]).
    #[must_use]
    pub fn retry_after(self) -> SignedDuration {
        SignedDuration::from_secs(match self {
            Self::ErrImagePull => 3,
            // The container's own back-off decides when the next one is made.
            Self::RunContainerError => 1,
            _ => 10,
        })
    }

    /// The text of the `Failed` event.
    #[must_use]
    pub fn event(self, message: &str) -> String {
        let text = match self {
            Self::ErrImagePull | Self::ImagePullBackOff | Self::ErrImageNeverPull | Self::InvalidImageName => {
                self.reason()
            }
            _ => message,
        };
        format!("Error: {text}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_wait_and_its_event() {
        for (why, seconds, event) in [
            (StartFailure::InvalidImageName, 10, "Error: InvalidImageName"),
            (StartFailure::ImageInspectError, 10, "Error: m"),
            (StartFailure::ErrImageNeverPull, 10, "Error: ErrImageNeverPull"),
            (StartFailure::ErrImagePull, 3, "Error: ErrImagePull"),
            (StartFailure::CreateContainerConfigError, 10, "Error: m"),
            (StartFailure::CreateContainerError, 10, "Error: m"),
            (StartFailure::RunContainerError, 1, "Error: m"),
        ] {
            assert_eq!((why.retry_after().as_secs(), why.event("m").as_str()), (seconds, event), "{why:?}");
        }
    }
}
