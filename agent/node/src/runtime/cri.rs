//! The container runtime: CRI v1 over containerd's socket.
//!
//! Invariants
//! - Every call has a deadline of ours. The runtime's own time-outs are not trusted: an ExecSync
//!   whose child keeps its output open never returns by itself.
//! - One lazily connected channel, which reconnects by itself when containerd restarts.

use std::{future::Future, path::Path, time::Duration};

use k8s_cri::v1::{
    self as cri, image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tracing::{Instrument as _, debug_span};

/// Calls that only look.
const LOOK: Duration = Duration::from_secs(10);
/// Calls that change something quick.
pub(super) const CHANGE: Duration = Duration::from_secs(120);
/// Network plugins may take their time.
const SANDBOX: Duration = Duration::from_secs(240);
/// Added to the deadline that the runtime was given.
const SLACK: Duration = Duration::from_secs(10);
const MAX_MESSAGE: usize = 16 << 20;

/// The runtime refused or did not answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct CriError {
    pub code: Code,
    pub message: String,
}

impl CriError {
    /// Whether the thing asked about does not exist.
    #[must_use]
    pub(crate) fn not_found(&self) -> bool {
        self.code == Code::NotFound
    }
}

impl From<Status> for CriError {
    fn from(status: Status) -> Self {
        Self { code: status.code(), message: status.message().to_owned() }
    }
}

type Result<T> = std::result::Result<T, CriError>;

/// One call, named as in [`Cri`].
async fn within<T>(
    name: &'static str,
    deadline: Duration,
    call: impl Future<Output = std::result::Result<tonic::Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(deadline, call).instrument(debug_span!("cri_call", name)).await {
        Ok(answer) => Ok(answer?.into_inner()),
        Err(_) => Err(CriError { code: Code::DeadlineExceeded, message: "context deadline exceeded".to_owned() }),
    }
}

/// A handle on the runtime; cheap to clone.
#[derive(Clone)]
pub struct Cri {
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
}

macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident via $client:ident within $deadline:expr;)*) => {
        impl Cri {$(
            $(#[$doc])*
            ///
            /// # Errors
            /// What the runtime answered, or that it did not answer in time.
            pub async fn $name(&self, request: cri::$request) -> Result<cri::$response> {
                let mut client = self.$client.clone();
                within(stringify!($name), $deadline, client.$name(request)).await
            }
        )*}
    };
}

calls! {
    /// Name and version of the runtime.
    version(VersionRequest) -> VersionResponse via runtime within LOOK;
    /// Conditions of the runtime.
    status(StatusRequest) -> StatusResponse via runtime within LOOK;
    /// Creates and starts a sandbox.
    run_pod_sandbox(RunPodSandboxRequest) -> RunPodSandboxResponse via runtime within SANDBOX;
    /// Stops a sandbox and tears down its network. Idempotent.
    stop_pod_sandbox(StopPodSandboxRequest) -> StopPodSandboxResponse via runtime within CHANGE;
    /// Removes a sandbox and its containers. Idempotent.
    remove_pod_sandbox(RemovePodSandboxRequest) -> RemovePodSandboxResponse via runtime within CHANGE;
    /// One sandbox.
    pod_sandbox_status(PodSandboxStatusRequest) -> PodSandboxStatusResponse via runtime within LOOK;
    /// Sandboxes by filter.
    list_pod_sandbox(ListPodSandboxRequest) -> ListPodSandboxResponse via runtime within LOOK;
    /// Creates a container.
    create_container(CreateContainerRequest) -> CreateContainerResponse via runtime within CHANGE;
    /// Starts a created container.
    start_container(StartContainerRequest) -> StartContainerResponse via runtime within CHANGE;
    /// Changes the resources of a container while it runs.
    update_container_resources(UpdateContainerResourcesRequest) -> UpdateContainerResourcesResponse via runtime within CHANGE;
    /// Removes a container, by force if it runs. Idempotent.
    remove_container(RemoveContainerRequest) -> RemoveContainerResponse via runtime within CHANGE;
    /// Containers by filter.
    list_containers(ListContainersRequest) -> ListContainersResponse via runtime within LOOK;
    /// One container.
    container_status(ContainerStatusRequest) -> ContainerStatusResponse via runtime within LOOK;
    /// A streaming address for a command.
    exec(ExecRequest) -> ExecResponse via runtime within LOOK;
    /// A streaming address for a container's own streams.
    attach(AttachRequest) -> AttachResponse via runtime within LOOK;
    /// A streaming address for ports of a sandbox.
    port_forward(PortForwardRequest) -> PortForwardResponse via runtime within LOOK;
    /// Usage of containers.
    list_container_stats(ListContainerStatsRequest) -> ListContainerStatsResponse via runtime within LOOK;
    /// Makes the runtime open a container's log file anew, after a rotation.
    reopen_container_log(ReopenContainerLogRequest) -> ReopenContainerLogResponse via runtime within LOOK;
    /// Images on this node.
    list_images(ListImagesRequest) -> ListImagesResponse via images within LOOK;
    /// One image.
    image_status(ImageStatusRequest) -> ImageStatusResponse via images within LOOK;
}

impl Cri {
    /// A handle on the runtime behind `socket`. Connects when first used.
    ///
    /// # Errors
    /// If the path cannot be an address.
    pub fn new(socket: &Path) -> std::result::Result<Self, tonic::transport::Error> {
        let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))?
            .connect_timeout(Duration::from_secs(5))
            .connect_lazy();
        Ok(Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE),
            channel,
        })
    }

    /// The channel, for containerd's own services.
    #[must_use]
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Stops a container: the runtime sends its stop signal, and kills it after `grace`.
    ///
    /// # Errors
    /// What the runtime answered, or that it did not answer in time.
    pub(crate) async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.to_owned(), timeout };
        let mut client = self.runtime.clone();
        within("stop_container", grace + SLACK * 2, client.stop_container(request)).await.map(|_| ())
    }

    /// Runs a command in a container, at most for `timeout`.
    ///
    /// # Errors
    /// What the runtime answered. `DeadlineExceeded` if the command did not end in time.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        cmd: Vec<String>,
        timeout: Duration,
    ) -> Result<cri::ExecSyncResponse> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(0).max(1);
        let request = cri::ExecSyncRequest { container_id: id.to_owned(), cmd, timeout: seconds };
        let mut client = self.runtime.clone();
        within("exec_sync", timeout + Duration::from_secs(1), client.exec_sync(request)).await
    }

    /// Pulls an image. The caller cancels a pull that takes too long by dropping the future.
    ///
    /// # Errors
    /// What the runtime answered.
    pub(crate) async fn pull_image(&self, request: cri::PullImageRequest, deadline: Duration) -> Result<String> {
        let mut client = self.images.clone();
        Ok(within("pull_image", deadline, client.pull_image(request)).await?.image_ref)
    }
}
