-- Accepts a request that waits, each of them once: the receiver acts, both users are approved, neither blocks the other.
\set number :first + :call * :clients + :client_id
\set call :call + 1
\set id :offset + :number
\set from 1 + :number % :users * 611953 % :users
\set to 1 + (:from - 1 + 2 + 4 * (:number / :users)) % :users
UPDATE connection_requests
SET state = 'CONNECTED', position = nextval('raw_ids'), accepted = now(), viewed = COALESCE(viewed, now())
WHERE id = :id AND to_user_id = :to AND state IN ('PENDING', 'REJECTED')
  AND EXISTS (SELECT FROM users WHERE id = from_user_id AND status = 'APPROVED')
  AND EXISTS (SELECT FROM users WHERE id = to_user_id AND status = 'APPROVED')
  AND NOT EXISTS (SELECT FROM blocks WHERE user_id = from_user_id AND other_user_id = to_user_id)
  AND NOT EXISTS (SELECT FROM blocks WHERE user_id = to_user_id AND other_user_id = from_user_id)
RETURNING *;
