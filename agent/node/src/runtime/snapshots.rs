//! The files of an image, as containerd's snapshot service shows them: for volumes, which the CRI of older containerds
//! cannot make of images.
//!
//! Invariants
//! - A view exists only while its mounts are asked for. The layers below it are the image's and stay with it.

use k8s_cri::v1::{ImageSpec, ImageStatusRequest, StatusRequest};
use tonic::{Code, Status, metadata::MetadataValue};

use super::cri::{Cri, CriError};

/// What is to be mounted where an image's files are wanted.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Mount {
    /// Type of the file system, or `bind`.
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(string, tag = "2")]
    pub(crate) source: String,
    #[prost(string, repeated, tag = "4")]
    pub(crate) options: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Mounts {
    #[prost(message, repeated, tag = "1")]
    mounts: Vec<Mount>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct View {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
    #[prost(string, tag = "3")]
    parent: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Remove {
    #[prost(string, tag = "1")]
    snapshotter: String,
    #[prost(string, tag = "2")]
    key: String,
}

/// The one whose mounts need nothing of the view itself.
const OVERLAYFS: &str = "overlayfs";

/// The mounts that show the files of an image that is here. `key` is the caller's own.
///
/// # Errors
/// What containerd answered, or that it keeps images in a way that is not known here.
pub(crate) async fn of_image(cri: &Cri, image: &str, key: &str) -> Result<Vec<Mount>, CriError> {
    let snapshotter = snapshotter(cri).await?;
    if snapshotter != OVERLAYFS {
        let message = format!("volumes of images are made with the snapshotter {OVERLAYFS}, not with {snapshotter}");
        return Err(CriError { code: Code::Unimplemented, message });
    }
    let parent = chain_id(cri, image).await?;
    let key = key.to_owned();
    let view = View { snapshotter: snapshotter.clone(), key: key.clone(), parent };
    let remove = Remove { snapshotter, key };
    let mut mounts: Result<Mounts, Status> = call(cri, "View", view.clone()).await;
    if mounts.as_ref().is_err_and(|status| status.code() == Code::AlreadyExists) {
        // Left by an attempt that broke off; another image may be behind the name by now.
        call::<_, ()>(cri, "Remove", remove.clone()).await?;
        mounts = call(cri, "View", view).await;
    }
    let mounts = mounts?.mounts;
    call::<_, ()>(cri, "Remove", remove).await?;
    Ok(mounts)
}

async fn call<Q, A>(cri: &Cri, method: &str, request: Q) -> Result<A, Status>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(cri.channel());
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = format!("/containerd.services.snapshots.v1.Snapshots/{method}");
    let path = path.parse().map_err(|_| Status::internal("an unusable path"))?;
    let mut request = tonic::Request::new(request);
    request.metadata_mut().insert("containerd-namespace", MetadataValue::from_static("k8s.io"));
    let answer = client.unary(request, path, tonic_prost::ProstCodec::<Q, A>::default());
    match tokio::time::timeout(super::cri::CHANGE, answer).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(Status::deadline_exceeded("context deadline exceeded")),
    }
}

fn unknown(message: impl Into<String>) -> CriError {
    CriError { code: Code::Unknown, message: message.into() }
}

/// How the runtime keeps the images of pods.
async fn snapshotter(cri: &Cri) -> Result<String, CriError> {
    let answer = cri.status(StatusRequest { verbose: true }).await?;
    let config = answer.info.get("config").map_or("{}", String::as_str);
    let config: serde_json::Value = serde_json::from_str(config).unwrap_or_default();
    Ok(config["containerd"]["snapshotter"].as_str().unwrap_or(OVERLAYFS).to_owned())
}

/// The name of the snapshot that has all layers of an image.
async fn chain_id(cri: &Cri, image: &str) -> Result<String, CriError> {
    let spec = ImageSpec { image: image.to_owned(), ..ImageSpec::default() };
    let status = cri.image_status(ImageStatusRequest { image: Some(spec), verbose: true }).await?;
    if status.image.is_none() {
        return Err(CriError { code: Code::NotFound, message: format!("image \"{image}\" is not present") });
    }
    let info = status.info.get("info").ok_or_else(|| unknown("the runtime does not tell an image's layers"))?;
    let info: serde_json::Value = serde_json::from_str(info).map_err(|error| unknown(error.to_string()))?;
    let chain = info["chainID"].as_str().ok_or_else(|| unknown("the runtime does not tell an image's layers"))?;
    Ok(chain.to_owned())
}
