"""The loss and its gradient: by batches, with regularisers, and with what it reads beside."""
