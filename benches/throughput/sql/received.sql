-- Lists the newest 20 requests that wait for a user, with the sender and the receiver whole.
\set rank random(0, :listed - 1)
\set user 1 + :rank % :users * 611953 % :users
SELECT request.*, sender.*, receiver.*
FROM (
    SELECT * FROM connection_requests
    WHERE to_user_id = :user AND state = 'PENDING' AND created > now() - interval '180 days'
    ORDER BY position DESC LIMIT 20
) AS request
JOIN users AS sender ON sender.id = request.from_user_id
JOIN users AS receiver ON receiver.id = request.to_user_id
ORDER BY request.position DESC;
