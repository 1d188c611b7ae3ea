-- Sends a request: both users are there and approved, neither blocks the other, and the pair has no row.
\set from random(1, :users)
\set to 1 + (:from + 2 * random(0, :users / 4 - 3)) % :users
INSERT INTO connection_requests
    (low_user_id, high_user_id, id, from_user_id, to_user_id, state, position, message, created)
SELECT LEAST(:from::bigint, :to::bigint), GREATEST(:from::bigint, :to::bigint), new.id, :from::bigint,
       :to::bigint, 'PENDING', new.id,
       'I liked your talk. Shall we connect?', now()
FROM (SELECT nextval('raw_ids') AS id) AS new
WHERE EXISTS (SELECT FROM users WHERE id = :from AND status = 'APPROVED')
  AND EXISTS (SELECT FROM users WHERE id = :to AND status = 'APPROVED')
  AND NOT EXISTS (SELECT FROM blocks WHERE user_id = :from AND other_user_id = :to)
  AND NOT EXISTS (SELECT FROM blocks WHERE user_id = :to AND other_user_id = :from)
ON CONFLICT (low_user_id, high_user_id) DO NOTHING
RETURNING id, created;
