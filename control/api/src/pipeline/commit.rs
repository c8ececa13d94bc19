//! The transaction: what is written, on condition that nothing which was relied on has moved.

use kontiki_store::{Compare, Op, Txn, TxnResult};

use crate::Status;
use crate::call::Call;
use crate::state::{Along, Extra, write_error};

impl Call {
    /// Writes `op` and what goes with it if `guard`, the first compare of the answer, and the others hold.
    /// `succeeded: false` is an answer, not an error.
    pub async fn commit(&self, guard: Compare, op: Op, extra: Extra) -> Result<TxnResult, Status> {
        let mut txn = Txn::guarded(vec![guard], vec![op]).fenced(self.fence);
        txn.compares.extend(extra.compares);
        txn.success.extend(extra.ops);
        for Along { key, seen, new } in extra.along {
            txn.compares.push(Compare::value(key.clone(), seen));
            txn.success.push(Op::put(key, new));
        }
        let result = self.api.backend().txn(txn).await.map_err(write_error)?;
        if result.succeeded {
            self.api.inner.config.writes.committed(self.writer, self.def.plural.clone());
        }
        Ok(result)
    }
}
